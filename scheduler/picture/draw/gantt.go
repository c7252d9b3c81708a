package draw

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"

	"github.com/qenex/qenex-kernel/scheduler/picture"
)

// gantt draws time to the right and the CPUs downwards.
func gantt(w io.Writer, title string, g *picture.Gantt) error {
	list, legend, entries := colours(g.VCPUs)
	p := newPlot(title)
	end := time.Duration(0)
	for _, s := range g.Spans {
		end = max(end, s.To)
	}
	begin := end
	for _, s := range g.Spans {
		begin = min(begin, s.From)
	}
	unit, name := unitOf(end - begin)
	rows := len(g.CPUs)
	p.X.Label.Text, p.X.Min, p.X.Max = "time ("+name+")", float64(begin)/unit, float64(max(end, begin+1))/unit
	p.Y.Min, p.Y.Max, p.Y.Padding, p.X.Padding = -float64(rows), 0, 2, 2
	p.X.Tick.Marker = plot.TickerFunc(times)
	p.Y.Tick.Length, p.Y.LineStyle.Width = 0, 0
	p.Y.Tick.Marker = plot.ConstantTicks(rowTicks(g.CPUs))
	p.Add(&bars{g, list, unit})
	height := vg.Length(rows) * min(34, max(7, 640/vg.Length(rows)))
	return save(w, p, 900, height+70, legend, entries)
}

// unitOf is the unit for times of a length, in nanoseconds, and its name.
func unitOf(d time.Duration) (float64, string) {
	switch {
	case d >= 10*time.Second:
		return 1e9, "s"
	case d >= 10*time.Millisecond:
		return 1e6, "ms"
	}
	return 1e3, "µs"
}

// rowTicks names each row, or every second, fourth and so on of many.
func rowTicks(cpus []int) (ticks []plot.Tick) {
	step := 1
	for len(cpus)/step > 64 {
		step *= 2
	}
	for i, id := range cpus {
		if i%step == 0 {
			ticks = append(ticks, plot.Tick{Value: -float64(i) - 0.5, Label: fmt.Sprintf("CPU %d", id)})
		}
	}
	return ticks
}

// bars are the stretches of time of all vCPUs.
type bars struct {
	g    *picture.Gantt
	list []color.RGBA
	unit float64
}

// Plot implements plot.Plotter.
func (b *bars) Plot(c vgdraw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	row := func(cpu int, from, to vg.Length) vg.Rectangle {
		low, high := y(-float64(cpu)-1), y(-float64(cpu))
		gap := (high - low) * 0.08
		return vg.Rectangle{Min: vg.Point{X: from, Y: low + gap}, Max: vg.Point{X: to, Y: high - gap}}
	}
	for i := range b.g.CPUs {
		fill(&c, paper, row(i, c.Min.X, c.Max.X))
	}
	least := vg.Length(0.35) // what is shorter would not be seen
	for _, s := range b.g.Spans {
		from, to := x(float64(s.From)/b.unit), x(float64(s.To)/b.unit)
		r := row(s.CPU, from, max(to, from+least))
		fill(&c, b.list[s.VCPU], r)
		name := short(b.g.VCPUs[s.VCPU].Name, 24)
		if t := style(8, on(b.list[s.VCPU]), -0.5, -0.5); r.Size().Y > 11 && r.Size().X > 20 && t.Width(name)+6 < r.Size().X {
			c.FillText(t, vg.Point{X: (r.Min.X + r.Max.X) / 2, Y: (r.Min.Y + r.Max.Y) / 2}, name)
		}
	}
	for _, t := range times(p.X.Min, p.X.Max) { // over the bars, so that times can be read
		c.StrokeLine2(vgdraw.LineStyle{Color: color.RGBA{0, 0, 0, 0x20}, Width: 0.5}, x(t.Value), c.Min.Y, x(t.Value), c.Max.Y)
	}
}

// times are the ticks of an axis of time: about ten, at round numbers.
func times(least, most float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((most-least)/5)))
	for _, round := range []float64{5, 2} {
		if (most-least)/(step*round) >= 5 {
			step *= round
			break
		}
	}
	for k := math.Ceil(least / step); k*step <= most+step/1e6; k++ {
		ticks = append(ticks, plot.Tick{Value: k * step, Label: strconv.FormatFloat(k*step, 'g', 6, 64)})
	}
	return ticks
}
