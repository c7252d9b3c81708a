// Package draw draws the charts of package picture, with gonum.org/v1/plot. Only qenex-picture may import it: see there.
package draw

import (
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/qenex/qenex-kernel/scheduler/picture"
)

// dpi is the resolution of pictures; lengths here are in points, 72 to the inch.
const dpi = 108

// maxLegend is how many entries a legend has at most: beyond, colours are all there is.
const maxLegend = 24

// legendRow is the height of a legend's entry.
const legendRow = 14 * vg.Length(1)

var (
	ink   = color.RGBA{0x22, 0x2b, 0x35, 0xff}
	faint = color.RGBA{0x8a, 0x94, 0x9e, 0xff}
	paper = color.RGBA{0xf4, 0xf6, 0xf8, 0xff} // of idle CPUs
	edge  = color.RGBA{0xc3, 0xcb, 0xd3, 0xff}
)

// palette has colours that are told apart also by those who do not see red and green, then by others as far as may be.
var palette = []color.RGBA{
	{0x3b, 0x76, 0xb8, 0xff}, {0xe6, 0x8a, 0x1e, 0xff}, {0x2f, 0x9e, 0x77, 0xff}, {0xc6, 0x53, 0x8c, 0xff}, {0x8b, 0x6f, 0xc9, 0xff},
	{0xb3, 0x9b, 0x24, 0xff}, {0x4f, 0xb3, 0xd9, 0xff}, {0xd1, 0x4b, 0x3f, 0xff}, {0x7a, 0x8a, 0x3a, 0xff}, {0x87, 0x5c, 0x44, 0xff},
}

// PNG draws a chart.
func PNG(w io.Writer, c *picture.Chart) error {
	if err := c.Check(); err != nil {
		return err
	}
	if c.Gantt != nil {
		return gantt(w, c.Title, c.Gantt)
	}
	return placement(w, c.Title, c.Placement)
}

// colours returns a colour for every vCPU, and a legend for as many as fit.
func colours(vcpus []picture.VCPU) ([]color.RGBA, plot.Legend, int) {
	groups, shades := picture.Shades(vcpus)
	list := make([]color.RGBA, len(vcpus))
	for i, s := range shades {
		list[i] = shade(s)
	}
	l := plot.NewLegend()
	l.Top, l.Left = true, true
	l.TextStyle = style(9, ink, text.XLeft, text.YBottom)
	l.ThumbnailWidth, l.Padding = 10, 3
	entries := 0
	switch {
	case len(vcpus) <= maxLegend:
		for i, v := range vcpus {
			l.Add(short(v.Name, 28), swatch{list[i]})
		}
		entries = len(vcpus)
	case len(groups) <= maxLegend:
		for i, name := range groups {
			l.Add(short(name, 28), swatch{shade(picture.Shade{Group: i, Members: 1})})
		}
		entries = len(groups)
	}
	return list, l, entries
}

// shade is a colour of the palette, lighter for each further member of a group, and with each further round through the palette darker.
func shade(s picture.Shade) color.RGBA {
	c := palette[s.Group%len(palette)]
	if round := s.Group / len(palette); round > 0 {
		c = mix(c, color.RGBA{0x10, 0x10, 0x10, 0xff}, 0.55*(1-1/(1+0.6*float64(round))))
	}
	if s.Members > 1 {
		c = mix(c, color.RGBA{0xff, 0xff, 0xff, 0xff}, 0.5*float64(s.Member)/float64(s.Members-1))
	}
	return c
}

func mix(a, b color.RGBA, share float64) color.RGBA {
	at := func(a, b uint8) uint8 { return uint8(math.Round(float64(a) + share*(float64(b)-float64(a)))) }
	return color.RGBA{at(a.R, b.R), at(a.G, b.G), at(a.B, b.B), 0xff}
}

// on is the colour in which text can be read on c.
func on(c color.RGBA) color.RGBA {
	if 0.299*float64(c.R)+0.587*float64(c.G)+0.114*float64(c.B) > 150 {
		return ink
	}
	return color.RGBA{0xff, 0xff, 0xff, 0xff}
}

// swatch is a legend's sample.
type swatch struct{ c color.RGBA }

func (s swatch) Thumbnail(c *vgdraw.Canvas) { fill(c, s.c, c.Rectangle) }

func style(size vg.Length, c color.Color, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{
		Color: c, Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}, XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler,
	}
}

// newPlot is a plot with a title in the fonts of all pictures.
func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.Padding = short(title, 110), 8
	p.Title.TextStyle = style(13, ink, text.XCenter, text.YTop)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle = style(10, ink, text.XCenter, text.YBottom)
		a.Tick.LineStyle.Color, a.LineStyle.Color = edge, edge
	}
	p.X.Tick.Label = style(9, ink, text.XCenter, text.YTop)
	p.Y.Tick.Label = style(9, ink, text.XRight, text.YCenter)
	p.Y.Label.TextStyle.Rotation = math.Pi / 2
	return p
}

// save draws a plot of a size, with a legend beside it, into a PNG file.
func save(w io.Writer, p *plot.Plot, width, height vg.Length, l plot.Legend, entries int) error {
	side := vg.Length(0)
	if entries > 0 {
		side = l.Rectangle(vgdraw.Canvas{}).Size().X + 24
		height = max(height, vg.Length(entries)*legendRow+50)
	}
	img := vgimg.NewWith(vgimg.UseWH(width+side, height), vgimg.UseDPI(dpi), vgimg.UseBackgroundColor(color.White))
	c := vgdraw.New(img)
	p.Draw(vgdraw.Crop(c, 8, -side-8, 8, -8))
	if entries > 0 {
		l.Draw(vgdraw.Crop(c, width+4, -4, 8, -34))
	}
	_, err := vgimg.PngCanvas{Canvas: img}.WriteTo(w)
	return err
}

func fill(c *vgdraw.Canvas, colour color.Color, r vg.Rectangle) {
	c.FillPolygon(colour, []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}})
}

func outline(c *vgdraw.Canvas, colour color.Color, width vg.Length, r vg.Rectangle) {
	c.StrokeLines(vgdraw.LineStyle{Color: colour, Width: width}, []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}, r.Min})
}

// short cuts text to so many characters, and leaves out what cannot be drawn.
func short(s string, most int) string {
	r := []rune(s)
	if len(r) > most {
		r = append(r[:most-1], '…')
	}
	for i, c := range r {
		if c < ' ' || c == 0x7f {
			r[i] = ' '
		}
	}
	return string(r)
}
