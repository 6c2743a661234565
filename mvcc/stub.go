package mvcc

import "banyan"

func (c *Command) Encode(dst []byte) []byte      { panic("todo") }
func Decode(b []byte) (*Command, error)          { panic("todo") }
func (c *Command) Validate() error               { panic("todo") }
func (r *Result) Encode(dst []byte) []byte       { panic("todo") }
func DecodeResult(b []byte) (Result, error)      { panic("todo") }
func SequenceKey(prefix []byte, n uint64) []byte { panic("todo") }
func PrefixEnd(prefix []byte) []byte             { panic("todo") }

type Machine struct{}

func Open(r Reader) (*Machine, error) { panic("todo") }
func (m *Machine) Apply(rw ReadWriter, entryTerm uint64, cmd *Command) (Result, []Event, error) {
	panic("todo")
}
func (m *Machine) Flush(w Writer)                                { panic("todo") }
func (m *Machine) Revision() banyan.Revision                     { panic("todo") }
func (m *Machine) Horizon() banyan.Revision                      { panic("todo") }
func Get(r Reader, key []byte, at banyan.Revision) (*Row, error) { panic("todo") }
func Range(r Reader, q Query) (rows []Row, more bool, err error) { panic("todo") }
func EventsSince(r Reader, after banyan.Revision, lo, hi []byte, limit int) (evs []Event, upTo banyan.Revision, err error) {
	panic("todo")
}
