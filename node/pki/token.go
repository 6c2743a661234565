package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"banyan"
)

// A token reads banyan-1-BODY: the format's version, and in base32 the secret,
// the SHA-256 of the authority's certificate and a CRC-32C of both.
const (
	tokenPrefix  = "banyan-"
	tokenVersion = "1"

	secretBytes      = 16
	fingerprintBytes = sha256.Size
	bodyBytes        = secretBytes + fingerprintBytes + 4
)

// tokenAlphabet is Crockford's: no letter that is taken for another.
const tokenAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

func tokenEncoding() *base32.Encoding {
	return base32.NewEncoding(tokenAlphabet).WithPadding(base32.NoPadding)
}

// NewToken draws a join token for the cluster whose authority has this
// fingerprint. Only hash may be stored.
func NewToken(fingerprint string) (token, hash string, err error) {
	pin, err := hex.DecodeString(fingerprint)
	if err != nil || len(pin) != fingerprintBytes {
		return "", "", banyan.Errorf(banyan.Invalid, "bad fingerprint %q of an authority: it is %d hexadecimal digits", fingerprint, 2*fingerprintBytes)
	}
	body := make([]byte, secretBytes, bodyBytes)
	rand.Read(body)
	hash = HashToken(body)
	body = append(body, pin...)
	body = binary.BigEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return tokenPrefix + tokenVersion + "-" + tokenEncoding().EncodeToString(body), hash, nil
}

// ParseToken takes a token apart. A token that was cut or mistyped is told
// from one that is only not (or no longer) known, and is Invalid; one of a
// newer version is TooNew.
func ParseToken(token string) (secret []byte, fingerprint string, err error) {
	token = strings.ToLower(strings.Join(strings.Fields(token), "")) // terminals and mail wrap long lines
	version, text, ok := strings.Cut(strings.TrimPrefix(token, tokenPrefix), "-")
	if !ok || !strings.HasPrefix(token, tokenPrefix) {
		return nil, "", banyan.Errorf(banyan.Invalid, "this is no join token: one begins with %q; 'banyan token' on a node of the cluster prints one", tokenPrefix+tokenVersion+"-")
	}
	if version != tokenVersion {
		return nil, "", banyan.Errorf(banyan.TooNew, "the join token has format %.8q, this banyan (%s) knows only %s: install the version that the cluster runs", version, banyan.Version, tokenVersion)
	}
	want := tokenEncoding().EncodedLen(bodyBytes)
	if len(text) != want {
		return nil, "", banyan.Errorf(banyan.Invalid, "the join token is cut or has extra characters: %d where there should be %d; copy it whole", len(text), want)
	}
	body, err := tokenEncoding().DecodeString(strings.NewReplacer("o", "0", "i", "1", "l", "1").Replace(text))
	sum := bodyBytes - 4
	if err != nil || crc32.Checksum(body[:sum], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(body[sum:]) {
		return nil, "", banyan.Errorf(banyan.Invalid, "the join token is mistyped (its checksum does not match): copy it again")
	}
	return body[:secretBytes], hex.EncodeToString(body[secretBytes:sum]), nil
}

// TokenHashLength is how many digits HashToken gives.
const TokenHashLength = 2 * sha256.Size

// HashToken is what is stored of a token's secret. The secret is random and
// long, so a plain hash is enough.
func HashToken(secret []byte) string {
	sum := sha256.Sum256(append([]byte("banyan join token 1\x00"), secret...))
	return hex.EncodeToString(sum[:])
}
