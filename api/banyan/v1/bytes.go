package banyanv1

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

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

// EncodeFiles writes a list of files as a FileList's chunks hold it.
func EncodeFiles(files []*FileRef) ([]byte, error) {
	var b []byte
	for _, f := range files {
		b = binary.AppendUvarint(b, uint64(proto.Size(f)))
		var err error
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, f); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// DecodeFiles reads what EncodeFiles wrote.
func DecodeFiles(b []byte) ([]*FileRef, error) {
	var files []*FileRef
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, errors.New("a list of files is cut short")
		}
		f := &FileRef{}
		if err := proto.Unmarshal(b[n:n+int(size)], f); err != nil {
			return nil, fmt.Errorf("a list of files cannot be read: %w", err)
		}
		files, b = append(files, f), b[n+int(size):]
	}
	return files, nil
}
