package worker

// scarce bounds how many attempts run at once for a while after one could not
// begin for want of descriptors, processes or memory.
type scarce struct {
	most  int   // 0: as many as there are slots
	since int64 // when most was last changed
}

const (
	scarceEach = 200_000   // µs; what fails together within counts once
	scarceStep = 1_000_000 // µs until a few more are tried
)

// Scarce says that an attempt could not begin for want of something that
// others use. From now on half as many run at once as did, then step by step
// more again. The attempt itself is handed back (Finish with nil).
func (c *Core) Scarce(now int64) {
	if c.scarce.most > 0 && now-c.scarce.since < scarceEach {
		return
	}
	c.scarce = scarce{most: max(1, min(c.most(), c.running())/2), since: now}
	c.rejectWaiting(0) // others may have room
	c.grant()
}

// relax lets more run again.
func (c *Core) relax(now int64) {
	if c.scarce.most == 0 || now-c.scarce.since < scarceStep {
		return
	}
	c.scarce.since = now
	if c.scarce.most += max(1, c.scarce.most/4); c.scarce.most >= len(c.slots) {
		c.scarce.most = 0
	}
	c.fill(now)
}

// most is how many attempts may run at once.
func (c *Core) most() int {
	if c.scarce.most > 0 {
		return c.scarce.most
	}
	return len(c.slots)
}

func (c *Core) running() int {
	n := 0
	for _, a := range c.slots {
		if a != nil {
			n++
		}
	}
	return n
}

// ahead is how many attempts may wait beyond those that run.
func (c *Core) ahead(now int64) int {
	if c.scarce.most > 0 {
		return 0
	}
	return c.pace.ahead(now, len(c.slots))
}
