package work

import (
	"cmp"
	"slices"
	"sort"

	"banyan"
)

// journal is the order in which a job's results were recorded: four bytes a
// task, and one mark a revision. The then step is not in it.
type journal struct {
	gone  int // results before those of tasks, which are forgotten
	tasks []uint32
	marks []mark
}

// mark says that the tasks from at on were recorded at rev.
type mark struct {
	rev banyan.Revision
	at  int // counted with those that are gone, as every place is
}

// entry is one recorded result.
type entry struct {
	rev  banyan.Revision
	task uint32
}

// newJournal orders results read from their rows.
func newJournal(entries []entry) *journal {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.rev, b.rev), cmp.Compare(a.task, b.task)) })
	j := &journal{tasks: make([]uint32, 0, len(entries))}
	for _, e := range entries {
		j.add(e.rev, e.task)
	}
	return j
}

// add notes a result; revisions do not go back.
func (j *journal) add(rev banyan.Revision, task uint32) {
	if len(j.marks) == 0 || j.marks[len(j.marks)-1].rev != rev {
		j.marks = append(j.marks, mark{rev, j.len()})
	}
	j.tasks = append(j.tasks, task)
}

// len is the place behind the last result.
func (j *journal) len() int { return j.gone + len(j.tasks) }

// forget drops the oldest results while they are of tasks before a mark. Whole
// revisions go, so that a place stands at the beginning of one.
func (j *journal) forget(before uint32) {
	n := 0
	for n < len(j.marks)-1 && !slices.ContainsFunc(j.tasks[j.marks[n].at-j.gone:j.marks[n+1].at-j.gone], func(t uint32) bool { return t >= before }) {
		n++
	}
	if n == 0 {
		return
	}
	at := j.marks[n].at
	j.tasks = append([]uint32(nil), j.tasks[at-j.gone:]...)
	j.marks = append([]mark(nil), j.marks[n:]...)
	j.gone = at
}

// after gives the place of the first result recorded after rev.
func (j *journal) after(rev banyan.Revision) int {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].rev > rev })
	if i == len(j.marks) {
		return j.len()
	}
	return j.marks[i].at
}

// entries lists results from a place on: whole revisions, until there are n.
func (j *journal) entries(at, n int) []entry {
	i := sort.Search(len(j.marks), func(i int) bool { return j.marks[i].at > at }) - 1
	var out []entry
	for at = max(at, j.gone); at < j.len(); at++ {
		if i+1 < len(j.marks) && j.marks[i+1].at == at {
			if i++; len(out) >= n {
				break
			}
		}
		out = append(out, entry{j.marks[i].rev, j.tasks[at-j.gone]})
	}
	return out
}

// complete gives the last revision all of whose results are before a place, or 0.
func (j *journal) complete(at int) banyan.Revision {
	i := sort.Search(len(j.marks), func(i int) bool {
		end := j.len()
		if i+1 < len(j.marks) {
			end = j.marks[i+1].at
		}
		return end > at
	})
	if i == 0 {
		return 0
	}
	return j.marks[i-1].rev
}
