package mvcc

// OpenWindow is Open with a small dedup window.
func OpenWindow(r Reader, max int) (*Machine, error) { return open(r, max) }

// DescribeRow puts a raw row in words.
func DescribeRow(k, v []byte) string { return describeRow(k, v) }
