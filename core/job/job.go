// Package job is the meaning of a job without any machine around it: how a
// command template becomes an argument list, what a valid specification is,
// which changes of state are legal, and how a job's rows are encoded.
//
// It is pure: no clock, no randomness, no goroutine, no file. Everything here
// is a function of its arguments and may be called by several goroutines.
package job
