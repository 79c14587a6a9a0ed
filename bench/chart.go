package bench

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// The charts' measures, in pixels. A chart has a white ground of its own, so
// that it can be read on a dark page as well.
const (
	chartWidth = 780
	plotLeft   = 180
	plotRight  = 610
	barHeight  = 22
	curveTall  = 320
	fontSize   = 13
)

// colours can be told apart by people who see fewer of them (Okabe and Ito).
var colours = map[string]string{
	"plain": "#6e6e6e", "overlayfs": "#e69f00", "pipeline": "#d55e00", "hardlink": "#cc79a7",
	"fuse": "#0072b2", "overlay": "#56b4e9", "cat": "#009e73", "tar": "#009e73",
}

// A drawing is an SVG that grows downwards.
type drawing struct {
	body bytes.Buffer
	tall int
}

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(&d.body, format+"\n", args...) }

// text writes a line; anchor is start, middle or end.
func (d *drawing) text(x, y float64, anchor, style, text string) {
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(text)) // a buffer takes all
	d.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`, x, y, anchor, style, escaped.String())
}

func (d *drawing) line(x1, y1, x2, y2 float64, colour string, width float64) {
	d.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`, x1, y1, x2, y2, colour, width)
}

const (
	black = "#1f2328"
	grey  = "#d0d7de"
)

var (
	plainText = fmt.Sprintf(`fill="%s"`, black)
	boldText  = fmt.Sprintf(`fill="%s" font-weight="bold"`, black)
	smallText = `fill="#57606a" font-size="11"`
)

// bytes closes the drawing.
func (d *drawing) bytes() []byte {
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d">
<rect width="%d" height="%d" rx="6" fill="#ffffff" stroke="%s"/>
`, chartWidth, d.tall, chartWidth, d.tall, fontSize, chartWidth, d.tall, grey)
	return append(append([]byte(head), d.body.Bytes()...), "</svg>\n"...)
}

// A panel is one group of bars with a scale of its own.
type panel struct {
	title   string
	measure measure
	bars    []bar
}

// A bar is a subject's median, and its least and most as a whisker.
type bar struct {
	subject string
	values  stats
}

// bars draws panels, one under the other.
func bars(panels []panel) []byte {
	d := &drawing{tall: 10}
	for _, p := range panels {
		d.panel(p)
	}
	d.tall += 4
	return d.bytes()
}

func (d *drawing) panel(p panel) {
	top := float64(d.tall)
	d.text(16, top+18, "start", boldText, p.title)
	most := 0.0
	for _, b := range p.bars {
		most = max(most, b.values.most())
	}
	axis := newScale(0, most, plotLeft, plotRight)
	first := top + 30
	bottom := first + float64(len(p.bars)*barHeight)
	for _, t := range axis.ticks() {
		d.line(axis.at(t), first, axis.at(t), bottom, grey, 1)
		d.text(axis.at(t), bottom+14, "middle", smallText, p.measure.format(t))
	}
	for i, b := range p.bars {
		d.bar(b, p.measure, axis, first+float64(i*barHeight))
	}
	d.tall = int(bottom) + 28
}

func (d *drawing) bar(b bar, m measure, axis scale, y float64) {
	middle := y + barHeight/2
	d.text(plotLeft-8, middle+4.5, "end", plainText, titleOf(b.subject))
	d.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`,
		axis.at(0), y+3, max(1, axis.at(b.values.median())-axis.at(0)), barHeight-6, colours[b.subject])
	least, most := axis.at(b.values.least()), axis.at(b.values.most())
	d.whisker(least, most, middle)
	d.text(max(most, axis.at(b.values.median()))+8, middle+4.5, "start", plainText, m.format(b.values.median()))
}

// whisker spans the least and the most, with a light rim on dark bars.
func (d *drawing) whisker(least, most, y float64) {
	for _, pen := range []struct {
		colour string
		width  float64
	}{{"#ffffff", 3.5}, {black, 1.5}} {
		d.line(least, y, most, y, pen.colour, pen.width)
		d.line(least, y-4, least, y+4, pen.colour, pen.width)
		d.line(most, y-4, most, y+4, pen.colour, pen.width)
	}
}

// A curve is what one subject took, release after release.
type curve struct {
	subject  string
	releases []int
	values   []float64
}

// curves draws seconds over releases.
func curves(title string, all []curve) []byte {
	d := &drawing{tall: curveTall + 80}
	d.text(16, 28, "start", boldText, title)
	most, last := 0.0, 1
	for _, c := range all {
		for i, v := range c.values {
			most, last = max(most, v), max(last, c.releases[i])
		}
	}
	x := newScale(1, float64(last), 60, plotRight)
	y := newScale(0, most, curveTall+40, 50)
	for _, t := range y.ticks() {
		d.line(60, y.at(t), plotRight, y.at(t), grey, 1)
		d.text(52, y.at(t)+4, "end", smallText, fmt.Sprintf("%g s", t))
	}
	for _, t := range x.ticks() {
		d.line(x.at(t), curveTall+40, x.at(t), curveTall+44, black, 1)
		d.text(x.at(t), curveTall+58, "middle", smallText, fmt.Sprintf("%g", t))
	}
	d.text((60+plotRight)/2, curveTall+74, "middle", smallText, "release")
	d.curves(all, x, y)
	return d.bytes()
}

// curves draws the lines, each with its name at its end.
func (d *drawing) curves(all []curve, x, y scale) {
	names := make([]float64, len(all))
	for i, c := range all {
		var points bytes.Buffer
		for j, v := range c.values {
			fmt.Fprintf(&points, "%.1f,%.1f ", x.at(float64(c.releases[j])), y.at(v))
		}
		d.printf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, bytes.TrimSpace(points.Bytes()), colours[c.subject])
		names[i] = y.at(c.values[len(c.values)-1])
	}
	for i, at := range apart(names, 16) {
		d.text(plotRight+8, at+4.5, "start", fmt.Sprintf(`fill="%s" font-weight="bold"`, colours[all[i].subject]), titleOf(all[i].subject))
	}
}

// apart moves positions until there is room for a line of text between any
// two, the uppermost last.
func apart(at []float64, room float64) []float64 {
	moved := append([]float64(nil), at...)
	for range at {
		for i := range moved {
			for j := range moved {
				if i != j && math.Abs(moved[i]-moved[j]) < room && (at[i] < at[j] || at[i] == at[j] && i < j) {
					moved[i] = moved[j] - room
				}
			}
		}
	}
	return moved
}

// A scale maps values to pixels.
type scale struct{ from, to, first, last float64 }

func newScale(from, to, first, last float64) scale {
	if to <= from {
		to = from + 1
	}
	return scale{from, to, first, last}
}

func (s scale) at(v float64) float64 { return s.first + (v-s.from)/(s.to-s.from)*(s.last-s.first) }

// ticks are round values, six at most.
func (s scale) ticks() (ticks []float64) {
	step := math.Pow(10, math.Floor(math.Log10((s.to-s.from)/5)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if (s.to-s.from)/(step*factor) <= 5 {
			step *= factor
			break
		}
	}
	for i := math.Ceil(s.from / step); i*step <= s.to*1.0001; i++ {
		ticks = append(ticks, i*step)
	}
	return ticks
}
