package film

import "math"

// scene is the world at one moment of the film.
type scene struct {
	tree     *tree
	sun      vec // direction to it
	sunColor vec
	eye      vec
	forward  vec
	right    vec
	up       vec
	dusk     float64 // 0 by day, 1 at the end
	time     float64
}

// The ground is the cap of a great sphere that rises out of still water.
const (
	moundRadius = 34.0
	moundTop    = 0.16
	crownRadius = 3.0
	forkHeight  = 1.75
)

func moundCenter() vec { return vec{0, moundTop - moundRadius, 0} }

// groundHeight is the height of the mound at a place near the middle.
func groundHeight(x, z float64) float64 {
	return moundTop - moundRadius + math.Sqrt(moundRadius*moundRadius-x*x-z*z)
}

// newScene builds the world at time t from 0 to 1: one trunk grows a crown, the
// crown lets down roots that become trunks, the oldest trunk rots away, and the
// tree lives on.
func newScene(t float64) *scene {
	s := &scene{time: t, dusk: smooth(0.72, 1, t)}
	elevation := (14 + 30*math.Sin(math.Pi*min(1, 0.12+0.95*t))) * math.Pi / 180
	azimuth := -0.9 + 1.5*t
	s.sun = vec{math.Cos(elevation) * math.Sin(azimuth), math.Sin(elevation), math.Cos(elevation) * math.Cos(azimuth)}
	low := smooth(0.62, 0.24, s.sun.y)
	s.sunColor = vec{5.2, 4.7, 3.9}.lerp(vec{5.6, 2.9, 1.25}, low)
	angle := 0.35 + 1.75*t
	distance := 13.4 - 1.2*math.Sin(math.Pi*t)
	s.eye = vec{distance * math.Sin(angle), 1.5 + 0.7*math.Sin(math.Pi*t*0.9), distance * math.Cos(angle)}
	s.forward = vec{0, 1.45, 0}.sub(s.eye).unit()
	s.right = s.forward.cross(vec{0, 1, 0}).unit()
	s.up = s.right.cross(s.forward)
	var shapes []shape
	shapes = append(shapes, oldTrunk(t)...)
	shapes = append(shapes, crown(t)...)
	shapes = append(shapes, roots(t)...)
	shapes = append(shapes, fireflies(t)...)
	s.tree = newTree(shapes)
	return s
}

// bough is where a part of the crown is, and the branch that leads there.
type bough struct {
	at     vec
	spread float64 // distance from the trunk, 0 to 1 of the crown's radius
}

// boughs gives the same places at every moment.
func boughs() []bough {
	r := newRandom(7)
	bs := make([]bough, 46)
	for i := range bs {
		spread := math.Sqrt((float64(i) + 0.6) / float64(len(bs)))
		angle := float64(i)*2.399963 + r.between(-0.2, 0.2)
		rho := crownRadius * spread
		y := 2.55 + 1.15*(1-spread*spread) + r.between(-0.16, 0.16)
		bs[i] = bough{vec{rho * math.Sin(angle), y, rho * math.Cos(angle)}, spread}
	}
	return bs
}

func bark(r *random) vec {
	return vec{0.30, 0.215, 0.15}.scale(r.between(0.85, 1.15))
}

// oldTrunk is the first trunk. It thins and comes off the ground at the end.
func oldTrunk(t float64) []shape {
	rot := smooth(0.60, 0.93, t)
	if rot >= 1 {
		return nil
	}
	color := vec{0.30, 0.215, 0.15}.lerp(vec{0.33, 0.32, 0.31}, smooth(0, 0.7, rot))
	thick := (0.30 + 0.12*smooth(0, 0.5, t)) * (1 - 0.9*rot)
	foot := moundTop + (forkHeight-0.2)*smooth(0.25, 1, rot)
	out := []shape{{a: vec{0.04, foot, 0}, b: vec{-0.03, forkHeight, 0.02}, ra: thick, rb: thick * 0.72, color: color}}
	r := newRandom(11)
	for i := range 7 { // the spurs of its foot
		angle := float64(i)*0.9 + r.between(-0.2, 0.2)
		reach := (thick + r.between(0.2, 0.45)) * (1 - rot)
		x, z := reach*math.Sin(angle), reach*math.Cos(angle)
		if reach > 0.12 {
			out = append(out, shape{a: vec{x, groundHeight(x, z) - 0.03, z}, b: vec{x * 0.2, foot + 0.55, z * 0.2}, ra: 0.07, rb: 0.13 * (1 - rot), color: color})
		}
	}
	return out
}

// grown says how far a bough has grown at time t.
func (b bough) grown(t float64) float64 {
	reach := 0.34 + 0.82*smooth(-0.05, 0.46, t)
	return smooth(b.spread-0.22, b.spread+0.04, reach)
}

func crown(t float64) []shape {
	var out []shape
	r := newRandom(23)
	for i, b := range boughs() {
		tint := r.between(0, 1)
		leaves := newRandom(100 + uint64(i))
		g := b.grown(t)
		if g <= 0.02 {
			continue
		}
		sway := vec{0.035 * math.Sin(7*t+b.at.x), 0.02 * math.Sin(9*t+b.at.z), 0.03 * math.Cos(6*t+b.at.z)}
		at := vec{0, forkHeight + 0.5, 0}.lerp(b.at, 0.35+0.65*g).add(sway)
		elbow := vec{at.x * 0.45, forkHeight + 0.35 + 0.25*b.spread, at.z * 0.45}
		thick := 0.055 + 0.12*(1-b.spread)
		brown := bark(leaves)
		out = append(out,
			shape{a: vec{0, forkHeight - 0.05, 0}, b: elbow, ra: thick * (0.5 + 0.5*g), rb: thick * 0.7 * g, color: brown},
			shape{a: elbow, b: at, ra: thick * 0.7 * g, rb: 0.03, color: brown})
		green := vec{0.16, 0.30, 0.065}.lerp(vec{0.30, 0.36, 0.07}, tint)
		for range 34 {
			dir := vec{leaves.between(-1, 1), leaves.between(-0.75, 0.85), leaves.between(-1, 1)}
			size := leaves.between(0.06, 0.15)
			shade := leaves.between(0.75, 1.2)
			out = append(out, sphere(at.add(dir.mul(vec{0.62, 0.30, 0.62}).scale(g)), size*(0.3+0.7*g), green.scale(shade)))
		}
	}
	return out
}

// roots come down from the boughs one after another and thicken into trunks.
func roots(t float64) []shape {
	var out []shape
	r := newRandom(31)
	k := 0
	for i, b := range boughs() {
		if b.spread < 0.34 || i%2 == 0 && b.spread < 0.9 {
			continue
		}
		begin := 0.16 + 0.36*r.float()
		k++
		down := smooth(begin, begin+0.2, t)
		thick := 0.016 + (0.05+0.10*r.float())*smooth(begin+0.17, begin+0.45, t)
		bend := vec{r.between(-0.14, 0.14), 0, r.between(-0.14, 0.14)}
		color := bark(r)
		if down <= 0 || b.grown(t) < 0.5 {
			continue
		}
		x, z := b.at.x*0.9, b.at.z*0.9
		top := vec{x, b.at.y - 0.12, z}
		foot := vec{x + bend.x, groundHeight(x, z) - 0.05, z + bend.z}
		tip := top.lerp(foot, down)
		middle := top.lerp(tip, 0.5).add(vec{bend.z, 0, bend.x}.scale(0.6 * down))
		out = append(out,
			shape{a: top, b: middle, ra: thick * 0.8, rb: thick * 0.85, color: color},
			shape{a: middle, b: tip, ra: thick * 0.85, rb: thick * (1 + 0.35*smooth(0.98, 1, down)), color: color})
	}
	return out
}

// fireflies come out at dusk.
func fireflies(t float64) []shape {
	glow := smooth(0.76, 0.95, t)
	var out []shape
	r := newRandom(41)
	for range 26 {
		angle, rho, y, phase := r.between(0, 2*math.Pi), r.between(0.6, 4.2), r.between(0.35, 2.3), r.between(0, 6)
		light := glow * (0.35 + 0.65*math.Pow(math.Sin(phase+26*t), 2))
		if light < 0.05 {
			continue
		}
		angle += 0.6 * t
		at := vec{rho * math.Sin(angle), y + 0.12*math.Sin(phase+14*t), rho * math.Cos(angle)}
		f := sphere(at, 0.022, vec{3.2, 2.6, 0.9}.scale(light))
		f.glow = true
		out = append(out, f)
	}
	return out
}
