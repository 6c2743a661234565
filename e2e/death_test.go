package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestATaskOfDeath runs a task that kills its node beside others, while
// somebody starts what is dead again: it fails after its second loss as a
// suspect, the others do not.
func TestATaskOfDeath(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2", "--isolation", "none") // else it does not see its node
	id := strings.TrimSpace(c.run("run", "--detach", "test {} = 3 && kill -9 $PPID; sleep 0.1; echo {}", ":::", "1", "2", "3", "4", "5", "6"))
	deaths := 0
	c.eventually("the job ends", func() bool {
		for _, n := range c.nodes {
			select {
			case <-n.done:
				deaths++
				n.start("up", "--dir", n.dir, "--isolation", "none")
			default:
			}
		}
		out, _, _ := c.try("jobs", "-o", "json")
		return strings.Contains(out, `"failed"`) && strings.Contains(out, id) && !strings.Contains(out, `"active"`)
	})
	if deaths < 2 || deaths > 4 { // a third if the first took the job's controller with it
		t.Errorf("the task ended %d nodes", deaths)
	}
	c.failedBut(id, 3)
	c.run("kv", "put", "color", "green")
}

// failedBut demands that one task of a job has failed by its losses, and no other.
func (c *cluster) failedBut(id string, seq int) {
	c.t.Helper()
	type task struct {
		Seq   int    `json:"seq"`
		State string `json:"state"`
		Error string `json:"error"`
	}
	var v struct{ Results []task }
	c.json(&v, "job", "show", id)
	if len(v.Results) != 6 {
		c.t.Errorf("%d results", len(v.Results))
	}
	for _, r := range v.Results {
		if lost := strings.Contains(r.Error, "lost with its node twice"); lost != (r.Seq == seq) || (r.State == "succeeded") == lost {
			c.t.Errorf("task %d: %s, %q", r.Seq, r.State, r.Error)
		}
	}
}

// TestALocalTaskOfDeath kills the run that it is a task of.
func TestALocalTaskOfDeath(t *testing.T) {
	c := emptyCluster(t)
	_, _, code := c.try("--local", "run", "kill -9 $PPID; sleep 5; : {}", ":::", "1")
	if code != -1 {
		t.Fatalf("the run was not killed: exit %d", code)
	}
	var j struct{ ID string }
	if err := json.Unmarshal([]byte(c.run("jobs", "-o", "json")), &j); err != nil {
		t.Fatal(err)
	}
	if _, _, code = c.try("resume", j.ID); code != -1 {
		t.Fatalf("the second run was not killed: exit %d", code)
	}
	// The node of the third run may have recorded the loss, and so ended the
	// job, before the run asks for it: then there is nothing to resume.
	_, errOut, code := c.try("resume", j.ID)
	if ended := code == 255 && strings.Contains(errOut, "every task has a result"); code != 1 && !ended {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if text := c.run("job", "show", j.ID); !strings.Contains(text, "lost with its node twice") {
		t.Errorf("the result does not say how the task ended:\n%s", text)
	}
}
