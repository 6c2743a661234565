package film

import (
	"cmp"
	"math"
	"slices"
)

// shape is a sphere (a == b) or a capsule whose radius goes from ra to rb.
type shape struct {
	a, b   vec
	ra, rb float64
	color  vec
	glow   bool // gives light of its colour instead of reflecting it
}

func sphere(c vec, r float64, color vec) shape { return shape{a: c, b: c, ra: r, rb: r, color: color} }

type ray struct {
	from, dir vec
	inv       vec // 1/dir
}

func newRay(from, dir vec) ray {
	return ray{from, dir, vec{1 / dir.x, 1 / dir.y, 1 / dir.z}}
}

func (r ray) at(t float64) vec { return r.from.add(r.dir.scale(t)) }

func (s *shape) box() (lo, hi vec) {
	ra, rb := vec{s.ra, s.ra, s.ra}, vec{s.rb, s.rb, s.rb}
	return s.a.sub(ra).min(s.b.sub(rb)), s.a.add(ra).max(s.b.add(rb))
}

// hit gives the distance at which r meets the shape first, nearer than far.
func (s *shape) hit(r *ray, far float64) (float64, vec, bool) {
	if s.a == s.b {
		return hitSphere(s.a, s.ra, r, far)
	}
	return s.hitCone(r, far)
}

func hitSphere(c vec, radius float64, r *ray, far float64) (float64, vec, bool) {
	oc := r.from.sub(c)
	b := oc.dot(r.dir)
	h := b*b - oc.dot(oc) + radius*radius
	if h < 0 {
		return 0, vec{}, false
	}
	t := -b - math.Sqrt(h)
	if t < near || t >= far {
		return 0, vec{}, false
	}
	return t, r.at(t).sub(c).scale(1 / radius), true
}

// near is the distance below which a ray is still on the surface it left.
const near = 1e-4

// hitCone intersects a cone with a round cap on each end.
func (s *shape) hitCone(r *ray, far float64) (float64, vec, bool) {
	ba, oa := s.b.sub(s.a), r.from.sub(s.a)
	rr := s.ra - s.rb
	m0, m1, m2, m3 := ba.dot(ba), ba.dot(oa), ba.dot(r.dir), r.dir.dot(oa)
	m5 := oa.dot(oa)
	d2 := m0 - rr*rr
	k2 := d2 - m2*m2
	k1 := d2*m3 - m1*m2 + m2*rr*s.ra
	k0 := d2*m5 - m1*m1 + m1*rr*s.ra*2 - m0*s.ra*s.ra
	h := k1*k1 - k0*k2
	if h < 0 {
		return 0, vec{}, false
	}
	t := (-math.Sqrt(h) - k1) / k2
	if y := m1 - s.ra*rr + t*m2; y > 0 && y < d2 {
		if t < near || t >= far {
			return 0, vec{}, false
		}
		return t, oa.add(r.dir.scale(t)).scale(d2).sub(ba.scale(y)).unit(), true
	}
	ta, na, oka := hitSphere(s.a, s.ra, r, far)
	tb, nb, okb := hitSphere(s.b, s.rb, r, far)
	if okb && (!oka || tb < ta) {
		return tb, nb, true
	}
	return ta, na, oka
}

// tree is a hierarchy of boxes over shapes.
type tree struct {
	shapes []shape
	nodes  []node
}

// node is a box; a leaf holds shapes [first, first+count), an inner node has its
// children at left and right.
type node struct {
	lo, hi       vec
	first, count int32
	left, right  int32
}

// leafMax is how many shapes a leaf holds at most, but for equal centres.
const leafMax = 3

func newTree(shapes []shape) *tree {
	t := &tree{shapes: shapes}
	if len(shapes) > 0 {
		t.build(0, len(shapes))
	}
	return t
}

func (t *tree) build(from, to int) int32 {
	part := t.shapes[from:to]
	lo, hi := part[0].box()
	clo, chi := part[0].center(), part[0].center()
	for i := range part {
		l, h := part[i].box()
		lo, hi = lo.min(l), hi.max(h)
		c := part[i].center()
		clo, chi = clo.min(c), chi.max(c)
	}
	me := int32(len(t.nodes))
	t.nodes = append(t.nodes, node{lo: lo, hi: hi, first: int32(from), count: int32(to - from)})
	if len(part) <= leafMax {
		return me
	}
	axis, widest := 0, 0.0
	for i := range 3 {
		if w := chi.axis(i) - clo.axis(i); w > widest {
			axis, widest = i, w
		}
	}
	slices.SortStableFunc(part, func(a, b shape) int { return cmp.Compare(a.center().axis(axis), b.center().axis(axis)) })
	mid := (from + to) / 2
	left := t.build(from, mid)
	right := t.build(mid, to)
	t.nodes[me].count, t.nodes[me].left, t.nodes[me].right = 0, left, right
	return me
}

func (s *shape) center() vec { return s.a.add(s.b).scale(0.5) }

// enter gives the distance at which r enters the box; far or more: never.
func (n *node) enter(r *ray, far float64) float64 {
	x0, x1 := (n.lo.x-r.from.x)*r.inv.x, (n.hi.x-r.from.x)*r.inv.x
	y0, y1 := (n.lo.y-r.from.y)*r.inv.y, (n.hi.y-r.from.y)*r.inv.y
	z0, z1 := (n.lo.z-r.from.z)*r.inv.z, (n.hi.z-r.from.z)*r.inv.z
	if x0 > x1 {
		x0, x1 = x1, x0
	}
	if y0 > y1 {
		y0, y1 = y1, y0
	}
	if z0 > z1 {
		z0, z1 = z1, z0
	}
	in, out := max(x0, y0, z0), min(x1, y1, z1)
	if in > out || out < near {
		return math.Inf(1)
	}
	return in
}

// depthMax bounds the stack of a walk; a tree over n shapes is log2(n) deep.
const depthMax = 48

// first finds the nearest shape that r meets before far. With any the first one
// found will do.
func (t *tree) first(r *ray, far float64, any bool) (dist float64, normal vec, hit *shape) {
	if len(t.nodes) == 0 || t.nodes[0].enter(r, far) >= far {
		return far, vec{}, nil
	}
	var stack [depthMax]int32
	top := 1
	for top > 0 {
		top--
		n := &t.nodes[stack[top]]
		if n.count > 0 {
			for i := n.first; i < n.first+n.count; i++ {
				s := &t.shapes[i]
				if d, nor, ok := s.hit(r, far); ok && !(any && s.glow) {
					far, normal, hit = d, nor, s
					if any {
						return far, normal, hit
					}
				}
			}
			continue
		}
		l, rt := t.nodes[n.left].enter(r, far), t.nodes[n.right].enter(r, far)
		a, b := n.left, n.right
		if rt < l {
			l, rt, a, b = rt, l, b, a
		}
		if rt < far {
			stack[top] = b
			top++
		}
		if l < far {
			stack[top] = a
			top++
		}
	}
	return far, normal, hit
}
