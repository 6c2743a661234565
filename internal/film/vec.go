package film

import "math"

// vec is a point, a direction or a colour (linear light).
type vec struct{ x, y, z float64 }

func (a vec) add(b vec) vec             { return vec{a.x + b.x, a.y + b.y, a.z + b.z} }
func (a vec) sub(b vec) vec             { return vec{a.x - b.x, a.y - b.y, a.z - b.z} }
func (a vec) mul(b vec) vec             { return vec{a.x * b.x, a.y * b.y, a.z * b.z} }
func (a vec) scale(s float64) vec       { return vec{a.x * s, a.y * s, a.z * s} }
func (a vec) dot(b vec) float64         { return a.x*b.x + a.y*b.y + a.z*b.z }
func (a vec) length() float64           { return math.Sqrt(a.dot(a)) }
func (a vec) unit() vec                 { return a.scale(1 / a.length()) }
func (a vec) lerp(b vec, t float64) vec { return a.scale(1 - t).add(b.scale(t)) }
func (a vec) min(b vec) vec             { return vec{min(a.x, b.x), min(a.y, b.y), min(a.z, b.z)} }
func (a vec) max(b vec) vec             { return vec{max(a.x, b.x), max(a.y, b.y), max(a.z, b.z)} }

func (a vec) cross(b vec) vec {
	return vec{a.y*b.z - a.z*b.y, a.z*b.x - a.x*b.z, a.x*b.y - a.y*b.x}
}

func (a vec) axis(i int) float64 {
	switch i {
	case 0:
		return a.x
	case 1:
		return a.y
	}
	return a.z
}

// basis gives two directions at right angles to a and to each other.
func (a vec) basis() (vec, vec) {
	s := math.Copysign(1, a.z)
	f := -1 / (s + a.z)
	b := a.x * a.y * f
	return vec{1 + s*a.x*a.x*f, s * b, -s * a.x}, vec{b, s + a.y*a.y*f, -a.y}
}

// smooth goes from 0 to 1 as x goes from lo to hi, without a kink.
func smooth(lo, hi, x float64) float64 {
	t := min(max((x-lo)/(hi-lo), 0), 1)
	return t * t * (3 - 2*t)
}

// random is a small generator of its own, so that a frame is the same bytes
// everywhere (PCG-XSH-RR).
type random uint64

func newRandom(seed ...uint64) *random {
	h := uint64(0x9e3779b97f4a7c15)
	for _, s := range seed {
		h = (h ^ s) * 0xff51afd7ed558ccd
		h ^= h >> 32
	}
	r := random(h)
	return &r
}

// float gives a number from 0 up to, not including, 1.
func (r *random) float() float64 {
	s := uint64(*r)
	*r = random(s*6364136223846793005 + 1442695040888963407)
	x := uint32(((s >> 18) ^ s) >> 27)
	rot := uint32(s >> 59)
	return float64(x>>rot|x<<((32-rot)&31)) / (1 << 32)
}

func (r *random) between(lo, hi float64) float64 { return lo + (hi-lo)*r.float() }
