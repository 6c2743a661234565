package banyanv1

// Bytes gives strings as messages carry what may be no text.
func Bytes(list ...string) [][]byte {
	if list == nil {
		return nil
	}
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// Strings gives such bytes as Go strings, unchanged: they may be no text.
func Strings(list [][]byte) []string {
	if list == nil {
		return nil
	}
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// NewInput makes the input of one task.
func NewInput(columns ...string) *Input { return &Input{Columns: Bytes(columns...)} }

// NewCommand makes a command that is executed as it is.
func NewCommand(args ...string) *Command { return &Command{Args: Bytes(args...)} }

// NewShell makes a command for the shell.
func NewShell(script string) *Command { return &Command{Args: Bytes(script), Shell: true} }
