package film

import "math"

// surface is what a ray met.
type surface struct {
	kind   kind
	dist   float64
	at     vec
	normal vec
	color  vec
}

type kind uint8

const (
	sky kind = iota
	matter
	water
	light
)

// farAway is farther than anything but the sky.
const farAway = 1e9

// look finds what r meets.
func (s *scene) look(r *ray) surface {
	best, normal, hit := s.tree.first(r, farAway, false)
	out := surface{kind: sky, dist: best}
	if hit != nil {
		out = surface{kind: matter, dist: best, normal: normal, color: hit.color}
		if hit.glow {
			out.kind = light
		}
	}
	if d, n, ok := hitSphere(moundCenter(), moundRadius, r, out.dist); ok && r.at(d).y > 0 {
		out = surface{kind: matter, dist: d, normal: n, color: ground(r.at(d))}
	}
	if d := -r.from.y / r.dir.y; d > near && d < out.dist {
		out = surface{kind: water, dist: d, normal: vec{0, 1, 0}}
	}
	out.at = r.at(out.dist)
	return out
}

// ground is the colour of the mound: grass, and sand towards the water.
func ground(p vec) vec {
	n := noise(p.x*1.7, p.z*1.7)*0.6 + noise(p.x*6, p.z*6)*0.4
	grass := vec{0.17, 0.23, 0.07}.lerp(vec{0.28, 0.27, 0.10}, n)
	return vec{0.46, 0.38, 0.25}.scale(0.85+0.25*n).lerp(grass, smooth(0.012, 0.055, p.y+0.02*(n-0.5)))
}

// noise is smooth and between 0 and 1.
func noise(x, y float64) float64 {
	fx, fy := math.Floor(x), math.Floor(y)
	u, v := smooth(0, 1, x-fx), smooth(0, 1, y-fy)
	at := func(dx, dy float64) float64 {
		return newRandom(uint64(int64(fx+dx)), uint64(int64(fy+dy))).float()
	}
	return (at(0, 0)*(1-u)+at(1, 0)*u)*(1-v) + (at(0, 1)*(1-u)+at(1, 1)*u)*v
}

// skyLight is the light that comes from a direction; with disc the sun itself
// is part of it.
func (s *scene) skyLight(d vec, disc bool) vec {
	h := max(d.y, 0)
	low := smooth(0.62, 0.24, s.sun.y)
	zenith := vec{0.20, 0.40, 0.78}.lerp(vec{0.13, 0.19, 0.42}, max(low, s.dusk))
	horizon := vec{0.72, 0.80, 0.88}.lerp(vec{0.98, 0.62, 0.36}, low)
	c := horizon.lerp(zenith, math.Pow(h, 0.48))
	toSun := max(d.dot(s.sun), 0)
	c = c.add(s.sunColor.scale(0.075*math.Pow(toSun, 7) + 0.09*math.Pow(toSun, 60)))
	if disc {
		c = c.add(s.sunColor.scale(3 * smooth(0.99955, 0.99985, toSun)))
		if cloud := noise(d.x/(h+0.14)*1.3+s.time*0.8, d.z/(h+0.14)*3.1); h > 0 {
			c = c.lerp(horizon.scale(1.12).add(s.sunColor.scale(0.03)), 0.5*smooth(0.52, 0.92, cloud)*smooth(0.015, 0.16, h))
		}
	}
	return c
}

// sunlight is the light of the sun on a surface, with a soft shadow.
func (s *scene) sunlight(p surface, rnd *random) vec {
	u, v := s.sun.basis()
	a, m := rnd.between(0, 2*math.Pi), 0.028*math.Sqrt(rnd.float())
	dir := s.sun.add(u.scale(m * math.Cos(a))).add(v.scale(m * math.Sin(a))).unit()
	cos := p.normal.dot(dir)
	if cos <= 0 {
		return vec{}
	}
	r := newRay(p.at.add(p.normal.scale(1e-3)), dir)
	if _, _, hit := s.tree.first(&r, farAway, true); hit != nil {
		return vec{}
	}
	return s.sunColor.scale(cos / math.Pi)
}

// bounce is the light that reaches a surface from one random direction.
func (s *scene) bounce(p surface, rnd *random) vec {
	u, v := p.normal.basis()
	a, m2 := rnd.between(0, 2*math.Pi), rnd.float()
	m := math.Sqrt(m2)
	dir := u.scale(m * math.Cos(a)).add(v.scale(m * math.Sin(a))).add(p.normal.scale(math.Sqrt(1 - m2)))
	r := newRay(p.at.add(p.normal.scale(1e-3)), dir)
	switch q := s.look(&r); q.kind {
	case sky:
		return s.skyLight(dir, false)
	case water:
		return s.skyLight(vec{dir.x, -dir.y, dir.z}, false).scale(0.35)
	case light:
		return q.color
	default: // lit as by an even sky, half of it hidden
		lit := s.skyLight(vec{0, 0.6, 0.8}, false).scale(0.4).add(s.sunColor.scale(0.32 * max(q.normal.dot(s.sun), 0) / math.Pi))
		return q.color.mul(lit)
	}
}

// sample follows one ray from the eye. Light that falls on a matt surface is
// given apart from the surface's colour, so that its noise can be smoothed
// without blurring the colour.
type sample struct {
	color vec // of the matt surface, or 0
	light vec // that falls on it
	plain vec // sky, water, glow: seen as they are
	p     surface
}

func (s *scene) trace(r ray, rnd *random) sample {
	p := s.look(&r)
	switch p.kind {
	case sky:
		return sample{plain: s.skyLight(r.dir, true), p: p}
	case light:
		return sample{plain: p.color, p: p}
	case water:
		return sample{plain: s.waterLight(r, p, rnd), p: p}
	}
	out := sample{color: p.color, light: s.sunlight(p, rnd).add(s.bounce(p, rnd)), p: p}
	haze := 1 - math.Exp(-p.dist*0.008)
	out.color = out.color.scale(1 - haze)
	out.plain = s.skyLight(vec{r.dir.x, 0.02, r.dir.z}, false).scale(haze)
	return out
}

// waterLight is what still water shows: its mirror image of the world, and more
// of its own depth the steeper one looks.
func (s *scene) waterLight(r ray, p surface, rnd *random) vec {
	scale := 2.2
	wx := noise(p.at.x*scale+3*s.time, p.at.z*scale*2.3) - 0.5
	wz := noise(p.at.z*scale+40, p.at.x*scale+5*s.time) - 0.5
	n := vec{wx * 0.030, 1, wz * 0.045}.unit()
	dir := r.dir.sub(n.scale(2 * n.dot(r.dir)))
	dir.y = math.Abs(dir.y) + 1e-4
	m := newRay(p.at.add(vec{0, 1e-3, 0}), dir.unit())
	var seen vec
	switch q := s.look(&m); q.kind {
	case sky, water:
		seen = s.skyLight(m.dir, true)
	case light:
		seen = q.color
	default:
		seen = q.color.mul(s.sunlight(q, rnd).add(s.skyLight(q.normal.lerp(vec{0, 1, 0}, 0.5), false).scale(0.42)))
	}
	fresnel := 0.06 + 0.94*math.Pow(1-max(-r.dir.dot(n), 0), 4)
	deep := vec{0.018, 0.060, 0.075}.lerp(vec{0.10, 0.11, 0.07}, math.Exp(-groundBelow(p.at)*9))
	out := deep.lerp(seen, fresnel)
	haze := 1 - math.Exp(-p.dist*0.006)
	return out.lerp(s.skyLight(vec{r.dir.x, 0.02, r.dir.z}, false), haze)
}

// groundBelow is how deep the water is at a place.
func groundBelow(p vec) float64 {
	d2 := p.x*p.x + p.z*p.z
	if d2 >= moundRadius*moundRadius {
		return moundRadius
	}
	return max(0, -groundHeight(p.x, p.z))
}
