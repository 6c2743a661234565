package worker

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	banyanv1 "banyan/api/banyan/v1"
)

// inherited is what tasks get of this process's environment by default: what
// programs need to find their way, and nothing that may be a secret.
func inherited() []string {
	var env []string
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		switch strings.ToUpper(k) {
		case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
			"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "XDG_RUNTIME_DIR", "CUDA_VISIBLE_DEVICES",
			"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP",
			"USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMFILES", "PROGRAMDATA", "NUMBER_OF_PROCESSORS":
			env = append(env, kv)
		default:
			if strings.HasPrefix(k, "LC_") {
				env = append(env, kv)
			}
		}
	}
	if _, ok := os.LookupEnv("PATH"); !ok && runtime.GOOS != "windows" {
		env = append(env, "PATH="+pathWithout)
	}
	return env
}

// pathWithout is the PATH of tasks where this process has none, as under
// 'env -i': that of a shell that is given none.
const pathWithout = "/usr/local/bin:/usr/bin:/bin"

// environment is the job's, over the node's, under what is true of this attempt.
func (w *Worker) environment(s Start, spec *banyanv1.JobSpec, dir, traceparent string) []string {
	seq, slot := strconv.FormatUint(uint64(s.Key.Task)+1, 10), strconv.Itoa(s.Slot)
	own := [...][2]string{
		{"BANYAN_JOB", string(s.Key.Job)},
		{"BANYAN_TASK", seq},
		{"BANYAN_ATTEMPT", strconv.FormatUint(uint64(s.Attempt.GetTry()), 10)},
		{"BANYAN_NODE", w.cfg.Node.String()},
		{"BANYAN_SLOT", slot},
		{"PARALLEL_SEQ", seq},
		{"PARALLEL_JOBSLOT", slot},
		{"PWD", dir},
		{"TRACEPARENT", traceparent},
	}
	isOwn := func(k string) bool {
		for _, kv := range own {
			if kv[0] == k {
				return kv[1] != ""
			}
		}
		return false
	}
	env := make([]string, 0, len(own)+len(spec.GetEnv())+len(w.env))
	for _, kv := range own {
		if kv[1] != "" {
			env = append(env, kv[0]+"="+kv[1])
		}
	}
	set := make(map[string]bool, len(spec.GetEnv()))
	for _, b := range spec.GetEnv() {
		kv := string(b)
		if k, _, _ := strings.Cut(kv, "="); !isOwn(k) {
			set[k] = true
			env = append(env, kv)
		}
	}
	for _, kv := range w.env {
		if k, _, _ := strings.Cut(kv, "="); !set[k] && !isOwn(k) {
			env = append(env, kv)
		}
	}
	return env
}
