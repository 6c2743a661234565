package job

import (
	"bytes"
	"math"
	"path"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// Validate checks a job's specification before anything is stored, against the
// table of limits and against itself. Whether the templates fit the inputs is
// asked of each input with ValidateInput. The errors are banyan.Invalid, or
// banyan.Exhausted naming the limit.
func Validate(spec *banyanv1.JobSpec) error {
	if spec == nil {
		return banyan.Errorf(banyan.Invalid, "no job specification: the first message of Submit carries it")
	}
	if err := Check(spec.Command, 0); err != nil {
		return err
	}
	if spec.Then != nil {
		if err := Check(spec.Then, 0); err != nil {
			return banyan.Errorf(banyan.Invalid, "--then: %w", err)
		}
	}
	if spec.OutputBytesMax < 0 || spec.OutputBytesMax > banyan.OutputBytesMax {
		return banyan.Errorf(banyan.Invalid, "a task may write %d bytes of output: give 1 to %d (OutputBytesMax), or 0 for the default", spec.OutputBytesMax, banyan.OutputBytesMax)
	}
	if spec.TimeoutMs < 0 {
		return banyan.Errorf(banyan.Invalid, "the timeout is negative (%d ms): give 0 for none", spec.TimeoutMs)
	}
	if len(spec.WorkDir) > 0 && !absolute(string(spec.WorkDir)) {
		return banyan.Errorf(banyan.Invalid, "the working directory %.300q is not absolute: nodes cannot know what it is relative to", spec.WorkDir)
	}
	if err := validateText(spec); err != nil {
		return err
	}
	if err := validateFiles(spec); err != nil {
		return err
	}
	return validateSizes(spec)
}

// validateText checks what must be text, and that what goes to an operating
// system holds no NUL: there it would end early.
func validateText(spec *banyanv1.JobSpec) error {
	if !utf8.ValidString(spec.Name) {
		return banyan.Errorf(banyan.Invalid, "the job's name %.100q is not UTF-8: a name is text", spec.Name)
	}
	if !utf8.ValidString(spec.Traceparent) {
		return banyan.Errorf(banyan.Invalid, "the traceparent %.100q is not text", spec.Traceparent)
	}
	names := make(map[string]bool, len(spec.Env))
	for _, kv := range spec.Env {
		k, _, ok := bytes.Cut(kv, []byte("="))
		if !ok || len(k) == 0 || bytes.IndexByte(kv, 0) >= 0 {
			return banyan.Errorf(banyan.Invalid, "bad environment variable %.100q: give NAME=VALUE without NUL", k)
		}
		if names[string(k)] {
			return banyan.Errorf(banyan.Invalid, "the environment variable %.100q is there twice", k)
		}
		names[string(k)] = true
	}
	for _, list := range [][][]byte{spec.Command.GetArgs(), spec.Then.GetArgs(), spec.Return, spec.SendTemplates, {spec.WorkDir}} {
		for _, b := range list {
			if bytes.IndexByte(b, 0) >= 0 {
				return banyan.Errorf(banyan.Invalid, "%.100q holds a NUL byte, which no argument and no path can", b)
			}
		}
	}
	return nil
}

func validateSizes(spec *banyanv1.JobSpec) error {
	env := 0
	for _, kv := range spec.Env {
		env += len(kv) + 1
	}
	small := TrimSpec(spec)
	for _, l := range []struct {
		what  string
		value int
		max   int
		name  string
	}{
		{"the job's name has %d bytes", len(spec.Name), banyan.NameBytesMax, "NameBytesMax"},
		{"the command has %d arguments", len(spec.Command.GetArgs()), banyan.CommandArgsMax, "CommandArgsMax"},
		{"the then command has %d arguments", len(spec.Then.GetArgs()), banyan.CommandArgsMax, "CommandArgsMax"},
		{"the environment has %d bytes", env, banyan.EnvBytesMax, "EnvBytesMax"},
		{"a task may be tried %d times", int(spec.AttemptsMax), banyan.RetriesMax, "RetriesMax"},
		{"the job sends %d files", len(spec.Send), banyan.SendFilesMax, "SendFilesMax"},
		{"the job selects sent files by %d templates", len(spec.SendTemplates), banyan.SendFilesMax, "SendFilesMax"},
		{"each task needs %d slots", int(min(spec.Demand.GetSlots(), math.MaxInt32)), banyan.SlotsMax, "SlotsMax"},
		{"the job returns %d patterns", len(spec.Return), banyan.ReturnFilesMax, "ReturnFilesMax"},
		{"the job's specification has %d bytes", proto.Size(small), banyan.JobSpecBytesMax, "JobSpecBytesMax"},
		{"the list of sent files has %d bytes", proto.Size(spec) - proto.Size(small), banyan.JobSendBytesMax, "JobSendBytesMax"},
	} {
		if l.value > l.max {
			return banyan.Errorf(banyan.Exhausted, l.what+", the limit is %d (%s)", l.value, l.max, l.name)
		}
	}
	return nil
}

func validateFiles(spec *banyanv1.JobSpec) error {
	for _, f := range spec.Send {
		if !localPath(string(f.GetPath())) {
			return banyan.Errorf(banyan.Invalid, "bad path %.300q of a file to send: it must be relative and stay below the working directory", f.GetPath())
		}
		if err := checkFile(f); err != nil {
			return err
		}
	}
	for _, b := range spec.Return {
		r := string(b)
		if r == "" || !below(r) {
			return banyan.Errorf(banyan.Invalid, "bad --return %.300q: give a name or pattern relative to the working directory", r)
		}
	}
	for _, s := range spec.SendTemplates {
		if !below(string(s)) {
			return banyan.Errorf(banyan.Invalid, "bad template %q of files to send: it must be relative and stay below the working directory", s)
		}
	}
	return nil
}

// absolute accepts the absolute paths of any system a node may run on.
func absolute(p string) bool {
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\`) || len(p) > 2 && p[1] == ':'
}

func localPath(p string) bool {
	return p != "" && path.Clean(p) == p && p != "." && below(p)
}

// below says whether a path stays below the directory it is relative to, on
// every system that a node may run on: "C:\\x" and "..\\x" lead out of it on
// Windows. No system takes a NUL byte.
func below(p string) bool {
	if strings.Contains(p, "\x00") || len(p) > 1 && p[1] == ':' && isLetter(p[0]) {
		return false
	}
	c := path.Clean(strings.ReplaceAll(p, `\`, "/"))
	return !strings.HasPrefix(c, "/") && c != ".." && !strings.HasPrefix(c, "../")
}

func isLetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

// ValidateInput checks one input against the limits and against every template
// of the (valid) specification.
func ValidateInput(spec *banyanv1.JobSpec, in *banyanv1.Input) error {
	columns := len(in.GetColumns())
	if columns == 0 {
		return banyan.Errorf(banyan.Invalid, "an input without columns: every task has at least one")
	}
	for _, c := range in.Columns {
		if bytes.IndexByte(c, 0) >= 0 {
			return banyan.Errorf(banyan.Invalid, "an input holds a NUL byte, which no argument can")
		}
	}
	if n := InputBytes(in); n > banyan.InputBytesMax {
		return banyan.Errorf(banyan.Exhausted, "an input has %d bytes, the limit is %d (InputBytesMax): put it into a file and send that", n, banyan.InputBytesMax)
	}
	if err := Check(spec.Command, columns); err != nil {
		return err
	}
	for _, list := range [][][]byte{spec.Return, spec.SendTemplates} {
		for _, s := range list {
			if err := CheckString(string(s), columns); err != nil {
				return err
			}
		}
	}
	return nil
}

// InputBytes is the size of an input as the limits count it.
func InputBytes(in *banyanv1.Input) int {
	n := 0
	for _, c := range in.GetColumns() {
		n += len(c)
	}
	return n
}

// TrimSpec gives the specification without its list of sent files, which can
// be large. The parts are shared with spec.
func TrimSpec(spec *banyanv1.JobSpec) *banyanv1.JobSpec {
	small := &banyanv1.JobSpec{}
	to := small.ProtoReflect()
	spec.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Name() != "send" {
			to.Set(f, v)
		}
		return true
	})
	return small
}

// Demand is what each attempt of the job occupies: at least one slot.
func Demand(spec *banyanv1.JobSpec) banyan.Resources {
	r := ResourcesOf(spec.GetDemand())
	r.Slots = max(1, r.Slots)
	return r
}

// ResourcesOf reads resources from a message; too much counts as the most there may be.
func ResourcesOf(m *banyanv1.Resources) banyan.Resources {
	return banyan.Resources{Slots: int(min(m.GetSlots(), math.MaxInt32)), Memory: int64(min(m.GetMemory(), memoryMax))}
}

// ResourcesProto is the opposite; what is negative counts as nothing.
func ResourcesProto(r banyan.Resources) *banyanv1.Resources {
	return &banyanv1.Resources{Slots: uint32(max(0, r.Slots)), Memory: uint64(max(0, r.Memory))}
}

// memoryMax is far from where sums of memory overflow.
const memoryMax = 1 << 50

// Tries is how often a task of the job may be tried.
func Tries(spec *banyanv1.JobSpec) int { return max(1, int(spec.GetAttemptsMax())) }
