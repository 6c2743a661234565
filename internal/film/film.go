// Package film renders the frames of a short film and joins them: the work
// that the demo gives to a cluster. One frame is one task; joining is the step
// after all of them.
//
// A frame is a pure function of its number: the same bytes on every machine of
// one architecture, so it does not matter which node renders it or how often.
package film

import (
	"image"
	"image/color"
	"math"

	"banyan"
)

// Frame says which picture of the film to render.
type Frame struct {
	Number  int // from 1
	Count   int // frames in the film
	Width   int // pixels
	Height  int
	Samples int // rays through a pixel, a square number or rounded down to one
}

// The limits of a film.
const (
	CountMax = 10_000
	SideMax  = 4096
)

// Validate says what is wrong with f.
func (f Frame) Validate() error {
	switch {
	case f.Count < 1 || f.Count > CountMax:
		return banyan.Errorf(banyan.Invalid, "a film of %d frames: give 1 to %d", f.Count, CountMax)
	case f.Number < 1 || f.Number > f.Count:
		return banyan.Errorf(banyan.Invalid, "frame %d of a film of %d: give 1 to %d", f.Number, f.Count, f.Count)
	case f.Width < 8 || f.Width > SideMax || f.Height < 8 || f.Height > SideMax:
		return banyan.Errorf(banyan.Invalid, "a picture of %d by %d pixels: give 8 to %d for each side", f.Width, f.Height, SideMax)
	case f.Samples < 1 || f.Samples > 4096:
		return banyan.Errorf(banyan.Invalid, "%d samples: give 1 to 4096", f.Samples)
	}
	return nil
}

// zoom is half the width of what is seen at distance 1.
const zoom = 0.43

// Render renders the frame, which must be valid, on the calling goroutine.
func Render(f Frame) *image.RGBA {
	s := newScene(float64(f.Number-1) / float64(max(f.Count-1, 1)))
	b := newBuffer(f.Width, f.Height)
	side := int(math.Sqrt(float64(f.Samples)))
	for y := range f.Height {
		for x := range f.Width {
			rnd := newRandom(uint64(x), uint64(y), uint64(f.Number))
			for i := range side * side {
				px := (float64(x)+(float64(i%side)+rnd.float())/float64(side))/float64(f.Width)*2 - 1
				py := (float64(y)+(float64(i/side)+rnd.float())/float64(side))/float64(f.Height)*2 - 1
				py *= float64(f.Height) / float64(f.Width)
				dir := s.forward.add(s.right.scale(px * zoom)).add(s.up.scale(-py * zoom)).unit()
				b.add(x, y, s.trace(newRay(s.eye, dir), rnd))
			}
		}
	}
	b.average(side * side)
	b.smoothLight()
	return b.develop()
}

// buffer holds a picture while it is made.
type buffer struct {
	w, h   int
	color  []vec
	light  []vec
	plain  []vec
	normal []vec
	depth  []float64
}

func newBuffer(w, h int) *buffer {
	n := w * h
	return &buffer{w, h, make([]vec, n), make([]vec, n), make([]vec, n), make([]vec, n), make([]float64, n)}
}

func (b *buffer) add(x, y int, s sample) {
	i := y*b.w + x
	b.color[i] = b.color[i].add(s.color)
	b.light[i] = b.light[i].add(s.light.mul(s.color))
	b.plain[i] = b.plain[i].add(s.plain)
	b.normal[i] = b.normal[i].add(s.p.normal)
	b.depth[i] += min(s.p.dist, 1000)
}

// average divides by the number of samples and takes the colour out of the light.
func (b *buffer) average(samples int) {
	k := 1 / float64(samples)
	for i := range b.color {
		c := b.color[i].scale(k)
		l := b.light[i].scale(k)
		b.color[i] = c
		b.light[i] = vec{l.x / max(c.x, 1e-6), l.y / max(c.y, 1e-6), l.z / max(c.z, 1e-6)}
		b.plain[i] = b.plain[i].scale(k)
		b.normal[i] = b.normal[i].scale(k)
		b.depth[i] *= k
	}
}

// smoothLight smooths the light on matt surfaces over pixels that face the same
// way at the same distance, in widening steps (à-trous).
func (b *buffer) smoothLight() {
	kernel := [3]float64{0.25, 0.5, 0.25}
	for step := 1; step <= 4; step *= 2 {
		out := make([]vec, len(b.light))
		for y := range b.h {
			for x := range b.w {
				i := y*b.w + x
				if b.color[i] == (vec{}) {
					continue
				}
				sum, weight := vec{}, 0.0
				for dy := -1; dy <= 1; dy++ {
					for dx := -1; dx <= 1; dx++ {
						qx, qy := x+dx*step, y+dy*step
						if qx < 0 || qy < 0 || qx >= b.w || qy >= b.h {
							continue
						}
						j := qy*b.w + qx
						if b.color[j] == (vec{}) {
							continue
						}
						n, d := b.normal[i].sub(b.normal[j]), (b.depth[i]-b.depth[j])/(b.depth[i]*0.02*float64(step))
						w := kernel[dx+1] * kernel[dy+1] * math.Exp(-10*n.dot(n)-d*d)
						sum, weight = sum.add(b.light[j].scale(w)), weight+w
					}
				}
				out[i] = sum.scale(1 / weight)
			}
		}
		b.light = out
	}
}

// develop turns light into the colours of a picture.
func (b *buffer) develop() *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, b.w, b.h))
	for i := range b.color {
		c := b.color[i].mul(b.light[i]).add(b.plain[i])
		x, y := i%b.w, i/b.w
		// A little darker towards the corners, as lenses are.
		dx, dy := float64(x)/float64(b.w)-0.5, float64(y)/float64(b.h)-0.5
		c = c.scale(1.05 - 0.45*(dx*dx+dy*dy))
		img.SetRGBA(x, y, color.RGBA{tone(c.x), tone(c.y), tone(c.z), 255})
	}
	return img
}

// tone maps light to a byte as film does: soft shoulders (ACES, fitted), gamma.
func tone(l float64) uint8 {
	l *= 0.82
	v := l * (2.51*l + 0.03) / (l*(2.43*l+0.59) + 0.14)
	return uint8(255*math.Pow(min(max(v, 0), 1), 1/2.2) + 0.5)
}
