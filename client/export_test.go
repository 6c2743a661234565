package client

import "time"

// SetPatience shortens a test's waiting for nodes that hang.
func (c *Client) SetPatience(d time.Duration) { c.patience = d }
