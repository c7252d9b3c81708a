package draw

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/picture"
)

// box is a package, a last-level cache, a core, or a CPU: a column in which the loads of its vCPUs are stacked. Lengths are points, y is
// downwards.
type box struct {
	name       string
	inner      []*box // nil: a CPU
	cpu        int    // index
	depth      int    // 0: the host
	x, y, w, h vg.Length
}

// sizes are those of everything in a picture.
type sizes struct {
	column, tall vg.Length
	gap, head    vg.Length // between boxes; above what is in them
	small        bool      // no names in cores
	wide         vg.Length // where rows end
}

func sizesFor(cpus int) sizes {
	switch {
	case cpus > 64:
		return sizes{column: 15, tall: 44, gap: 4, head: 12, small: true, wide: 1150}
	case cpus > 16:
		return sizes{column: 48, tall: 84, gap: 5, head: 12, wide: 1150}
	}
	return sizes{column: 104, tall: 170, gap: 7, head: 14, wide: 1000}
}

// tree makes the boxes of a host.
func tree(t *host.Topology) *box {
	all := make([]int, len(t.CPUs))
	for i := range all {
		all[i] = i
	}
	levels := []func(c host.CPU) (int, string){
		func(c host.CPU) (int, string) { return c.Package, fmt.Sprintf("package %d", c.Package) },
		func(c host.CPU) (int, string) { return c.LLC, fmt.Sprintf("node %d, cache %d", c.Node, c.LLC) },
		func(c host.CPU) (int, string) { return c.Core, fmt.Sprintf("core %d", c.Core) },
		func(c host.CPU) (int, string) { return c.ID, fmt.Sprintf("CPU %d", c.ID) },
	}
	root := &box{}
	root.split(t, all, levels)
	return root
}

// split puts CPUs into boxes by the number that they share.
func (b *box) split(t *host.Topology, cpus []int, levels []func(host.CPU) (int, string)) {
	if len(levels) == 0 {
		b.cpu = cpus[0]
		return
	}
	var order []int
	members := map[int][]int{}
	names := map[int]string{}
	for _, i := range cpus {
		n, name := levels[0](t.CPUs[i])
		if members[n] == nil {
			order = append(order, n)
		}
		members[n], names[n] = append(members[n], i), name
	}
	for _, n := range order {
		in := &box{name: names[n], depth: b.depth + 1}
		in.split(t, members[n], levels[1:])
		b.inner = append(b.inner, in)
	}
}

// measure finds sizes, and places relative to the box around: rows from left to right.
func (b *box) measure(s sizes) {
	if b.inner == nil {
		b.w, b.h = s.column, s.tall
		return
	}
	head := b.headOf(s)
	x, y, row := s.gap, head+s.gap, vg.Length(0)
	for _, in := range b.inner {
		in.measure(s)
		if x > s.gap && x+in.w > s.wide {
			x, y, row = s.gap, y+row+s.gap, 0
		}
		in.x, in.y = x, y
		x, row = x+in.w+s.gap, max(row, in.h)
		b.w = max(b.w, x)
	}
	b.h = y + row + s.gap
	b.w = max(b.w, 7*vg.Length(len(b.name))*0.7)
}

func (b *box) headOf(s sizes) vg.Length {
	if b.depth == 0 || b.depth == 3 && s.small {
		return 0
	}
	return s.head
}

// boxes draws a placement.
type boxes struct {
	p     *picture.Placement
	list  []color.RGBA
	root  *box
	sizes sizes
	on    [][]int // the vCPUs of every CPU
	full  float64 // the load that fills a column
}

func placement(w io.Writer, title string, pl *picture.Placement) error {
	list, legend, entries := colours(pl.VCPUs)
	b := &boxes{p: pl, list: list, root: tree(pl.Host), sizes: sizesFor(len(pl.Host.CPUs)), on: make([][]int, len(pl.Host.CPUs)), full: 1}
	loads := make([]float64, len(pl.Host.CPUs))
	for i, v := range pl.VCPUs {
		b.on[v.CPU] = append(b.on[v.CPU], i)
		loads[v.CPU] += v.Load
		b.full = max(b.full, loads[v.CPU])
	}
	b.root.measure(b.sizes)
	p := newPlot(title)
	p.HideAxes()
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, float64(b.root.w), 0, float64(b.root.h)+18
	p.Add(b)
	return save(w, p, max(b.root.w, 420)+30, b.root.h+64, legend, entries)
}

// Plot implements plot.Plotter.
func (b *boxes) Plot(c vgdraw.Canvas, _ *plot.Plot) {
	left := c.Min.X + max(0, (c.Max.X-c.Min.X-b.root.w)/2)
	b.draw(&c, b.root, left, c.Max.Y)
	foot := fmt.Sprintf("height of a bar: load of a vCPU; a column is %.2f CPUs high", b.full)
	if b.full > 1 {
		foot += ", the line is at one CPU"
	}
	c.FillText(style(8.5, faint, text.XLeft, text.YBottom), vg.Point{X: left + b.sizes.gap, Y: c.Max.Y - b.root.h - 13}, foot)
}

// draw draws a box whose upper left corner is at x, y.
func (b *boxes) draw(c *vgdraw.Canvas, in *box, x, y vg.Length) {
	r := vg.Rectangle{Min: vg.Point{X: x, Y: y - in.h}, Max: vg.Point{X: x + in.w, Y: y}}
	if in.inner == nil {
		b.column(c, in, r)
		return
	}
	if in.depth > 0 {
		fill(c, [...]color.RGBA{{}, {0xff, 0xff, 0xff, 0xff}, {0xf6, 0xf8, 0xfa, 0xff}, {0xea, 0xee, 0xf2, 0xff}}[in.depth], r)
		outline(c, edge, [...]vg.Length{0, 1.2, 0.8, 0.5}[in.depth], r)
	}
	if head := in.headOf(b.sizes); head > 0 {
		c.FillText(style(min(9.5, head-3), faint, text.XLeft, text.YTop), vg.Point{X: x + b.sizes.gap, Y: y - 2}, in.name)
	}
	for _, i := range in.inner {
		b.draw(c, i, x+i.x, y-i.y)
	}
}

// column draws a CPU: its number above, and the loads of its vCPUs from below.
func (b *boxes) column(c *vgdraw.Canvas, in *box, r vg.Rectangle) {
	label := style(min(9, b.sizes.column*0.5), ink, text.XCenter, text.YTop)
	name := in.name
	if b.sizes.small {
		name = fmt.Sprint(b.p.Host.CPUs[in.cpu].ID)
	}
	c.FillText(label, vg.Point{X: (r.Min.X + r.Max.X) / 2, Y: r.Max.Y}, name)
	r.Max.Y -= label.Font.Size + 3
	fill(c, color.White, r)
	y, height := r.Min.Y, r.Max.Y-r.Min.Y
	bars := make([]vg.Rectangle, len(b.on[in.cpu]))
	for k, v := range b.on[in.cpu] {
		bars[k] = r
		bars[k].Min.Y, bars[k].Max.Y = y, y+vg.Length(b.p.VCPUs[v].Load/b.full)*height
		fill(c, b.list[v], bars[k])
		outline(c, color.White, 0.4, bars[k])
		y = bars[k].Max.Y
	}
	if b.full > 1 {
		one := r.Min.Y + vg.Length(1/b.full)*height
		c.StrokeLine2(vgdraw.LineStyle{Color: ink, Width: 0.7, Dashes: []vg.Length{3, 2}}, r.Min.X, one, r.Max.X, one)
	}
	for k, v := range b.on[in.cpu] {
		b.label(c, v, bars[k])
	}
	outline(c, edge, 0.6, r)
}

// label writes a vCPU's name, and its load where there is room, on its bar if that is large enough, and over what is behind it.
func (b *boxes) label(c *vgdraw.Canvas, v int, bar vg.Rectangle) {
	vcpu := b.p.VCPUs[v]
	name := short(vcpu.Name, 24)
	if b.sizes.column > 60 {
		name = short(fmt.Sprintf("%s %.0f %%", vcpu.Name, 100*vcpu.Load), 32)
	}
	t := style(min(8.5, b.sizes.column/6), on(b.list[v]), text.XCenter, -0.5)
	middle, wide := vg.Point{X: (bar.Min.X + bar.Max.X) / 2, Y: (bar.Min.Y + bar.Max.Y) / 2}, t.Width(name)
	if bar.Size().Y < t.Font.Size || wide+4 > bar.Size().X {
		return
	}
	half := vg.Point{X: wide/2 + 1, Y: t.Font.Size/2 - 1}
	fill(c, b.list[v], vg.Rectangle{Min: middle.Sub(half), Max: middle.Add(half)})
	c.FillText(t, middle, name)
}
