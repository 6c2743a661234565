package cli

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shown makes text from outside (names, inputs, errors, keys) fit for a
// terminal: what would act on it instead of being shown (escape sequences and
// other control characters, C1 among them, marks that turn the direction of
// text, line and paragraph separators, bytes that are no UTF-8) shows as an
// escape such as \x1b or \u202e. Tabs and line ends stay.
func shown(s string) string {
	if strings.IndexFunc(s, acts) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !acts(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// acts says whether a terminal may do something at a character, besides showing it.
func acts(r rune) bool {
	switch r {
	case '\t', '\n':
		return false
	case '\u2028', '\u2029':
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}

// inLine is shown on one line: tabs and line ends become blanks.
func inLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, shown(strings.ReplaceAll(s, "\r", "\n")))
}

// base64Of gives the base64 twin of a JSON string: empty when the string is
// text, and says all of itself.
func base64Of(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// base64All is base64Of for a list: when one is no text, each has its twin.
func base64All(list []string) []string {
	lossy := false
	for _, s := range list {
		lossy = lossy || !utf8.ValidString(s)
	}
	if !lossy {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = base64.StdEncoding.EncodeToString([]byte(s))
	}
	return out
}
