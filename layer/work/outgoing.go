package work

import (
	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
)

// outgoingBytes is the size at which a message of starts is sent. What is larger
// by itself goes alone: a job's header (its sent files and its specification)
// with one start stays below banyan.RequestBytesMax.
const outgoingBytes = 1 << 20

// outgoing is a message to a worker that is sent when it is large enough, so that
// what a slow worker makes its controller hold is bounded.
type outgoing struct {
	x     *session
	msg   *peerv1.ControllerMessage
	bytes int
}

// add puts a start into the message, and the header of its job if the worker does
// not have it. The files of a then step go ahead in parts, if they are many.
func (o *outgoing) add(s *Service, header *peerv1.JobHeader, a *peerv1.Attempt) error {
	if proto.Size(a) > outgoingBytes {
		if err := o.ahead(s, a); err != nil {
			return err
		}
	}
	size := proto.Size(a) + proto.Size(header)
	if o.bytes > 0 && o.bytes+size > outgoingBytes {
		if err := o.next(s); err != nil {
			return err
		}
	}
	if o.bytes += size; header != nil {
		o.msg.Jobs = append(o.msg.Jobs, header)
	}
	o.msg.Start = append(o.msg.Start, a)
	return nil
}

// ahead sends the files of a then step and takes them out of its start.
func (o *outgoing) ahead(s *Service, a *peerv1.Attempt) error {
	part := &peerv1.ThenFiles{Key: a.Key}
	bytes := 0
	put := func(size int) error {
		if bytes += size; bytes < outgoingBytes {
			return nil
		}
		if err := o.next(s); err != nil {
			return err
		}
		o.msg.ThenFiles, o.bytes = append(o.msg.ThenFiles, part), bytes
		part, bytes = &peerv1.ThenFiles{Key: a.Key}, 0
		return nil
	}
	for _, f := range a.InputsFromTasks {
		part.Files = append(part.Files, f)
		if err := put(proto.Size(f)); err != nil {
			return err
		}
	}
	for _, l := range a.ListsFromTasks {
		part.Lists = append(part.Lists, l)
		if err := put(proto.Size(l)); err != nil {
			return err
		}
	}
	a.InputsFromTasks, a.ListsFromTasks = part.Files, part.Lists
	return o.next(s)
}

// next sends the message and begins another one.
func (o *outgoing) next(s *Service) error {
	err := o.flush(s)
	o.msg, o.bytes = &peerv1.ControllerMessage{Demand: o.msg.Demand}, 0
	return err
}

// flush sends the message. One that cannot be made fails the tasks it starts: no
// stream is to blame for it.
func (o *outgoing) flush(s *Service) error {
	err := o.x.stream.Send(o.msg)
	if err == nil {
		return nil
	}
	_, unmade := proto.Marshal(o.msg)
	if unmade == nil || len(o.msg.Start) == 0 {
		return err
	}
	s.cfg.Logger.Error("a message to a worker cannot be made", "node", o.x.id.Node, "error", unmade)
	for _, a := range o.msg.Start {
		k := Key{Job: banyan.JobID(a.GetKey().GetJobId()), Task: a.GetKey().GetTask(), Attempt: a.GetKey().GetAttempt()}
		s.input(func() { s.core.Fail(s.now(), k, "the task cannot be sent to a node: "+unmade.Error()) })
	}
	for _, h := range o.msg.Jobs {
		delete(o.x.jobs, banyan.JobID(h.JobId))
	}
	rest := &peerv1.ControllerMessage{
		Stop: o.msg.Stop, Recorded: o.msg.Recorded, Unknown: o.msg.Unknown, Demand: o.msg.Demand,
		SayHello: o.msg.SayHello, Begin: o.msg.Begin, ForgetJobs: o.msg.ForgetJobs,
	}
	return o.x.stream.Send(rest)
}
