package ctl

// counts is what commands there are and were.
type counts struct {
	run, failed int64
	imports     int // under way
	loads       int // under way
}

// begin notes that a command is under way until the function that it returns is called.
func (c *Ctl) begin(op string) func() {
	count := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch op {
		case "import":
			c.counts.imports += n
		case "load":
			c.counts.loads += n
		}
	}
	count(1)
	return func() { count(-1) }
}

// Adding returns what an image that has just appeared was most likely brought
// by: "import" while that alone is under way, else "load".
func (c *Ctl) Adding() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts.imports > 0 && c.counts.loads == 0 {
		return "import"
	}
	return "load"
}

// Counts returns how many commands have ended, and how many of them with an error.
func (c *Ctl) Counts() (run, failed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts.run, c.counts.failed
}
