package mvcc

// DescribeRow puts a raw row in words.
func DescribeRow(k, v []byte) string { return describeRow(k, v) }

// ScriptKey and ShowKey are how keys are written in scripts.
func ScriptKey(s []byte) []byte { return scriptKey(s) }
func ShowKey(key []byte) string { return showKey(key) }

// CountsEvery is how often the counts are written.
const CountsEvery = countsEvery

// Known is the filter of keys.
type Known = known

// LearnRows is how many rows one step of learning reads.
const LearnRows = learnRows

// KnownKeysMax is how many keys a filter takes.
const KnownKeysMax = blocksMax * blockKeys

// Add notes a key.
func (k *known) Add(key []byte) { k.add(keyHash(key)) }

// Lacks says that a key was never added.
func (k *known) Lacks(key []byte) bool { return k.lacks(keyHash(key)) }

// GaveUp says that there were too many keys.
func (k *known) GaveUp() bool { return k.useless && k.segments == nil }

// Known is the machine's filter, and whether it has learned all keys.
func (m *Machine) Known() (*Known, bool) { return &m.known, !m.known.learning }
