package client

import "time"

// SetPatience shortens a test's waiting for nodes that hang.
func (c *Client) SetPatience(d time.Duration) { c.patience = d }

// SetAlone shortens the time after which a stream that broke is given up.
func (c *Client) SetAlone(d time.Duration) { c.alone = d }

// Learned says whether the client knows more nodes than it was given.
func (c *Client) Learned() bool { return c.topology.Load() != nil }
