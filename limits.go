package banyan

// Limit is one row of the table of limits: nothing in Banyan is unbounded, and
// reaching a limit is a clear error or back-pressure, never memory growth.
// docs/limits.md is printed from Limits (go test ./internal/arch -update).
type Limit struct {
	Name  string
	Value int64
	Unit  string
	What  string // what is bounded and what happens at the bound
}

// The limits. Each is checked at the door or where the queue is.
const (
	KeyBytesMax           = 4 << 10
	RowKeyBytesMax        = KeyBytesMax + 64
	ValueBytesMax         = 1 << 20
	CommandBytesMax       = 4 << 20
	CommandMutationsMax   = 4096
	CommandConditionsMax  = 1024
	ListRowsMax           = 10_000
	ListBytesMax          = 4 << 20
	ProposalsMax          = 16_384
	ProposalBytesMax      = 64 << 20
	WatchersMax           = 10_000
	WatchQueueMax         = 4096
	WatchQueueBytesMax    = 8 << 20
	ReadsMax              = 65_536
	DedupWindowMax        = 65_536
	KeyFilterBytesMax     = 4 << 20
	HistoryRevisionsMax   = 100_000
	HistoryBytesMax       = 256 << 20
	ConditionRowsMax      = 10_000
	PrincipalBytesMax     = 256
	TraceBytesMax         = 64
	DeleteRowsMax         = 10_000
	DeleteStepKeysMax     = 1000
	DisplacedBytesMax     = 32 << 20
	CompactRowsMax        = 4096
	HistoryScanMax        = 10_000
	FrameBytesMax         = 16 << 20
	PeerQueueBytesMax     = 64 << 20
	ConnectionsMax        = 10_000
	NodeConnectionsMax    = 5000
	ArrivalsMax           = 256
	StrangersMax          = 16
	StrangerSecondsMax    = 10
	StrangerBytesMax      = 16 << 10
	FilesKeptMax          = 4096
	JobTasksMax           = 1_000_000
	JobInputBytesMax      = 64 << 20
	StreamTasksMax        = 4_000_000_000
	FeedInputsMax         = 4096
	InputBytesMax         = 128 << 10
	CommandArgsMax        = 4096
	NameBytesMax          = 256
	EnvBytesMax           = 128 << 10
	SendFilesMax          = 10_000
	LinkBytesMax          = 4096
	ReturnFilesMax        = 10_000
	ReturnInlineMax       = 16 << 10
	ReturnListBytesMax    = 64 << 20
	ResultBytesMax        = 512 << 10
	ErrorBytesMax         = 4 << 10
	RetriesMax            = 1000
	SlotsMax              = 4096
	DemandKindsMax        = 16
	WorkerBacklogMax      = 256
	WorkerResultsMax      = 4096
	WorkerJobsMax         = 1024
	OutputInlineMax       = 4 << 10
	OutputBytesDefault    = 1 << 30
	OutputBytesMax        = 1 << 40
	ReturnBytesMax        = 1 << 40
	TaskProcessesMax      = 4096
	KilledNamedMax        = 8
	ResultBatchMax        = 1024
	ResultQueueMax        = 8192
	FollowQueueMax        = 4096
	JobSpecBytesMax       = 512 << 10
	JobSendBytesMax       = 6 << 20
	JobsUnfinishedMax     = 10_000
	ThenFilesBytesMax     = 64 << 20
	BlobChunkBytes        = 4 << 20
	BlobBytesMax          = 1 << 40
	BlobTransfersMax      = 16
	BlobHashesMax         = 4096
	SweepChunksMax        = 262_144
	TokensMax             = 1000
	TokenUsesMax          = 10_000
	JoinGuessesMax        = 10
	JoinGuessesAllMax     = 600
	NodesMax              = 1000
	NoticesMax            = 100
	ShardsMax             = 256
	RequestBytesMax       = 8 << 20
	CallsMax              = 20_000
	PeerCallsMax          = 20_000
	CallBytesMax          = 512 << 20
	PeerCallBytesMax      = 256 << 20
	SessionCallsMax       = 4096
	SessionFrameBytesMax  = 8 << 20
	SessionBytesMax       = 32 << 20
	LogCacheBytesMax      = 32 << 20
	SlowOpsMax            = 512
	LogLinesMax           = 2048
	LogLineBytesMax       = 2 << 10
	ProfileSecondsMax     = 120
	DumpBytesMax          = 64 << 20
	LooksMax              = 64
	LeasesMax             = 100_000
	LeaseClaimsMax        = 1024
	LeaseBatchMax         = 1024
	LockWaitersMax        = 10_000
	LockPermitsMax        = 1024
	LockValueBytesMax     = 4 << 10
	LockQueueMax          = 16_384
	LockClaimsShownMax    = 1000
	StartsKeptMax         = 128
	DiskSilenceSecondsMax = 30
)

// Limits is the table behind docs/limits.md.
var Limits = []Limit{
	{"KeyBytesMax", KeyBytesMax, "bytes", "a key; a longer one is refused at the door"},
	{"RowKeyBytesMax", RowKeyBytesMax, "bytes", "the key of a row, which has what its layer puts in front of a user's key"},
	{"ValueBytesMax", ValueBytesMax, "bytes", "a value; larger things are files"},
	{"CommandBytesMax", CommandBytesMax, "bytes", "one command of the replicated machine"},
	{"CommandMutationsMax", CommandMutationsMax, "mutations", "in one command"},
	{"CommandConditionsMax", CommandConditionsMax, "conditions", "in one command"},
	{"ListRowsMax", ListRowsMax, "rows", "in one page of a list; the answer says there is more"},
	{"ListBytesMax", ListBytesMax, "bytes", "in one page of a list; the answer says there is more"},
	{"ProposalsMax", ProposalsMax, "proposals", "waiting in one shard's leader; then callers are told to wait"},
	{"ProposalBytesMax", ProposalBytesMax, "bytes", "of proposals waiting in one shard's leader"},
	{"WatchersMax", WatchersMax, "watchers", "on one node"},
	{"WatchQueueMax", WatchQueueMax, "events", "waiting for one watcher; a slower one is moved back to reading history"},
	{"WatchQueueBytesMax", WatchQueueBytesMax, "bytes", "of events waiting for one watcher; a slower one is moved back to reading history"},
	{"ReadsMax", ReadsMax, "reads", "waiting in one shard's leader for the proof that it still leads"},
	{"DedupWindowMax", DedupWindowMax, "requests", "remembered per shard to apply a retry once; a retry that comes later is refused"},
	{"KeyFilterBytesMax", KeyFilterBytesMax, "bytes", "of memory per shard to tell new keys from old ones, enough for 2 million keys; with more, each put looks for the key's old version on disk"},
	{"HistoryRevisionsMax", HistoryRevisionsMax, "revisions", "of history kept per shard; older ones are compacted"},
	{"HistoryBytesMax", HistoryBytesMax, "bytes", "of history kept per shard, with its change records; older revisions are compacted"},
	{"ConditionRowsMax", ConditionRowsMax, "rows", "looked at by the conditions of one command; one that would look at more is refused"},
	{"PrincipalBytesMax", PrincipalBytesMax, "bytes", "that name who asked, in a command"},
	{"TraceBytesMax", TraceBytesMax, "bytes", "that name the trace, in a command"},
	{"DeleteRowsMax", DeleteRowsMax, "rows", "removed by the ranges and leases of one command; the answer says there is more"},
	{"DeleteStepKeysMax", DeleteStepKeysMax, "keys", "deleted by one step of deleting a prefix; other writers come in between"},
	{"DisplacedBytesMax", DisplacedBytesMax, "bytes", "of old rows moved to history by one command; a larger one is refused"},
	{"CompactRowsMax", CompactRowsMax, "rows", "reclaimed by one compaction command; the next one goes on"},
	{"HistoryScanMax", HistoryScanMax, "revisions", "of history looked at in one step for a watcher"},
	{"FrameBytesMax", FrameBytesMax, "bytes", "of one frame between nodes"},
	{"PeerQueueBytesMax", PeerQueueBytesMax, "bytes", "waiting for one peer; then raft messages are dropped and sent again"},
	{"ConnectionsMax", ConnectionsMax, "connections", "of users accepted by one node; fewer where the process may have few files open (ulimit -n)"},
	{"NodeConnectionsMax", NodeConnectionsMax, "connections", "of nodes accepted by one node, apart from users'; fewer where the process may have few files open"},
	{"ArrivalsMax", ArrivalsMax, "connections", "accepted by one node that have not shown yet who they are; a new one takes the place of the oldest"},
	{"StrangersMax", StrangersMax, "connections", "of strangers, who have no certificate, at one node; a new one takes the place of the oldest"},
	{"StrangerSecondsMax", StrangerSecondsMax, "seconds", "that a stranger's connection lasts, whatever it does"},
	{"StrangerBytesMax", StrangerBytesMax, "bytes", "of a stranger's request; it may not be compressed"},
	{"FilesKeptMax", FilesKeptMax, "files", "of those that a process may have open kept from connections, or half of them if those are fewer"},
	{"JobTasksMax", JobTasksMax, "tasks", "in one job"},
	{"JobInputBytesMax", JobInputBytesMax, "bytes", "of inputs in one job"},
	{"StreamTasksMax", StreamTasksMax, "tasks", "in a job whose inputs stream and whose results are trimmed; of those not trimmed there are at most JobTasksMax, with JobInputBytesMax of inputs"},
	{"FeedInputsMax", FeedInputsMax, "inputs", "in one Feed call"},
	{"InputBytesMax", InputBytesMax, "bytes", "of one input (one line)"},
	{"CommandArgsMax", CommandArgsMax, "arguments", "in a task's command"},
	{"NameBytesMax", NameBytesMax, "bytes", "of a name (job, node, zone, space)"},
	{"EnvBytesMax", EnvBytesMax, "bytes", "of a job's environment"},
	{"SendFilesMax", SendFilesMax, "files", "sent with one job"},
	{"LinkBytesMax", LinkBytesMax, "bytes", "of what a symbolic link that is sent or returned holds"},
	{"ReturnFilesMax", ReturnFilesMax, "files", "returned by one task"},
	{"ReturnInlineMax", ReturnInlineMax, "bytes", "of the list of returned files kept in a task's result; a longer list is a blob"},
	{"ReturnListBytesMax", ReturnListBytesMax, "bytes", "of the list of files returned by one task; with a longer one the task fails"},
	{"ResultBytesMax", ResultBytesMax, "bytes", "of one task's result; with a longer one the task fails"},
	{"ErrorBytesMax", ErrorBytesMax, "bytes", "of the words that say why a task could not be run; the rest is cut off"},
	{"RetriesMax", RetriesMax, "attempts", "of one task"},
	{"SlotsMax", SlotsMax, "slots", "offered by one node"},
	{"DemandKindsMax", DemandKindsMax, "kinds", "of demands that differ, in what a controller tells a worker at once"},
	{"WorkerBacklogMax", WorkerBacklogMax, "attempts", "waiting on one worker beyond its slots"},
	{"WorkerResultsMax", WorkerResultsMax, "results", "kept by one worker until they are recorded; then it takes no more attempts"},
	{"WorkerJobsMax", WorkerJobsMax, "jobs", "whose specification a worker keeps of one stream; then they are announced anew"},
	{"OutputInlineMax", OutputInlineMax, "bytes", "of one output kept in a task's result; a longer one is a blob"},
	{"OutputBytesDefault", OutputBytesDefault, "bytes", "of standard output and standard error of one task together, where --output-max says nothing else; a task that writes more is killed and has failed"},
	{"OutputBytesMax", OutputBytesMax, "bytes", "that --output-max may allow"},
	{"ReturnBytesMax", ReturnBytesMax, "bytes", "of all files returned by one task; with more it has failed"},
	{"TaskProcessesMax", TaskProcessesMax, "processes", "of one task at once; with more it is killed and has failed"},
	{"KilledNamedMax", KilledNamedMax, "processes", "named in a task's result of those that it left behind; the rest is counted"},
	{"ResultBatchMax", ResultBatchMax, "results", "recorded by one command"},
	{"ResultQueueMax", ResultQueueMax, "results", "waiting to be recorded in one shard; then none of its tasks are started"},
	{"FollowQueueMax", FollowQueueMax, "results", "waiting for one follower of a job; a slower one is moved back to reading rows"},
	{"JobSpecBytesMax", JobSpecBytesMax, "bytes", "of a job's specification without its list of sent files"},
	{"JobSendBytesMax", JobSendBytesMax, "bytes", "of a job's list of sent files"},
	{"JobsUnfinishedMax", JobsUnfinishedMax, "jobs", "that have not ended, in one shard; then Submit is refused"},
	{"ThenFilesBytesMax", ThenFilesBytesMax, "bytes", "of the list of files returned by all tasks of a job to its then step; beyond it the step fails"},
	{"BlobChunkBytes", BlobChunkBytes, "bytes", "of one chunk of a blob"},
	{"BlobBytesMax", BlobBytesMax, "bytes", "of one file"},
	{"BlobTransfersMax", BlobTransfersMax, "chunks", "read or written at once by one node's blob store; others wait"},
	{"BlobHashesMax", BlobHashesMax, "hashes", "asked about in one request"},
	{"SweepChunksMax", SweepChunksMax, "chunks", "looked at at once by a sweep, and condemned on one node; what is more waits for the next look or the next epoch"},
	{"TokensMax", TokensMax, "tokens", "valid at once"},
	{"TokenUsesMax", TokenUsesMax, "uses", "of one join token"},
	{"JoinGuessesMax", JoinGuessesMax, "joins", "with a bad token from one address in a minute, at one node; more are refused unread"},
	{"JoinGuessesAllMax", JoinGuessesAllMax, "joins", "with a bad token from all addresses in a minute, at one node; more are refused unread"},
	{"NodesMax", NodesMax, "nodes", "in one cluster"},
	{"NoticesMax", NoticesMax, "notices", "of what may have cost data, kept and shown by status; the oldest go"},
	{"ShardsMax", ShardsMax, "shards", "in one cluster"},
	{"RequestBytesMax", RequestBytesMax, "bytes", "of one request at a door"},
	{"SessionCallsMax", SessionCallsMax, "calls", "under way in one session, or answered and not yet taken; then the node reads no more of it until some are gone"},
	{"SessionFrameBytesMax", SessionFrameBytesMax, "bytes", "of one message of a session, which may hold many calls or answers; a longer one ends the session"},
	{"SessionBytesMax", SessionBytesMax, "bytes", "of calls under way in one session, and of their answers until they are taken; then the node reads no more of it, and makes no more answers"},
	{"CallsMax", CallsMax, "calls", "of users answered by one node at once, streams included; more are told to come again"},
	{"PeerCallsMax", PeerCallsMax, "calls", "of nodes answered by one node at once, apart from users'"},
	{"CallBytesMax", CallBytesMax, "bytes", "of users' requests and answers under way at one node, in sessions too; more are told to come again"},
	{"PeerCallBytesMax", PeerCallBytesMax, "bytes", "of requests and answers between nodes under way at one node, apart from users'; snapshots and the streams of workers are bounded by their own limits"},
	{"LogCacheBytesMax", LogCacheBytesMax, "bytes", "of recent log entries kept in memory on one node; older ones are read from disk"},
	{"SlowOpsMax", SlowOpsMax, "operations", "kept in the slow log of one node; a new one replaces the oldest"},
	{"LogLinesMax", LogLinesMax, "lines", "of the log kept in memory on one node for 'banyan debug'; a new one replaces the oldest"},
	{"LogLineBytesMax", LogLineBytesMax, "bytes", "of one of these lines; the rest is cut off"},
	{"ProfileSecondsMax", ProfileSecondsMax, "seconds", "of one profile"},
	{"DumpBytesMax", DumpBytesMax, "bytes", "of one dump taken from a node; the rest is cut off"},
	{"LooksMax", LooksMax, "calls", "for metrics and debugging answered by one node at once, beside CallsMax; more are told to come again"},
	{"LeasesMax", LeasesMax, "leases", "alive in one shard"},
	{"LeaseClaimsMax", LeaseClaimsMax, "claims", "of one lease to locks"},
	{"LeaseBatchMax", LeaseBatchMax, "leases", "kept alive by one call"},
	{"LockWaitersMax", LockWaitersMax, "claims", "waiting for one lock; then Acquire is refused"},
	{"LockPermitsMax", LockPermitsMax, "permits", "of one semaphore"},
	{"LockValueBytesMax", LockValueBytesMax, "bytes", "of the value of a claim to a lock"},
	{"LockQueueMax", LockQueueMax, "changes", "of locks waiting to be committed in one shard; then Acquire and Release are refused"},
	{"LockClaimsShownMax", LockClaimsShownMax, "claims", "told of those that hold a lock, and of those that wait for it; the rest is counted"},
	{"StartsKeptMax", StartsKeptMax, "starts", "of its own that a node remembers and tells; older ones are forgotten"},
	{"DiskSilenceSecondsMax", DiskSilenceSecondsMax, "seconds", "that a write or fsync may take; then the node stops, as if it had failed"},
}
