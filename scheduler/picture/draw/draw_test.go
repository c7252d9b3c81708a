package draw

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/picture"
)

// chart makes a Gantt chart or a placement by chance.
func chart(t *host.Topology, vcpus, groups, spans int, gantt bool) *picture.Chart {
	r := rand.New(rand.NewPCG(1, uint64(vcpus)))
	c := &picture.Chart{Title: fmt.Sprintf("%d vCPUs on %d CPUs", vcpus, len(t.CPUs))}
	list := make([]picture.VCPU, vcpus)
	for i := range list {
		list[i] = picture.VCPU{Name: fmt.Sprintf("vm%d/vcpu%d", i%groups, i/groups), Group: fmt.Sprint("vm", i%groups), CPU: r.IntN(len(t.CPUs)), Load: r.Float64()}
	}
	if !gantt {
		c.Placement = &picture.Placement{Host: t, VCPUs: list}
		return c
	}
	c.Gantt = &picture.Gantt{VCPUs: list}
	for _, cpu := range t.CPUs {
		c.Gantt.CPUs = append(c.Gantt.CPUs, cpu.ID)
	}
	for range spans {
		from := time.Duration(r.IntN(1e9))
		c.Gantt.Spans = append(c.Gantt.Spans, picture.Span{CPU: r.IntN(len(t.CPUs)), VCPU: r.IntN(vcpus), From: from, To: from + time.Duration(r.IntN(1e7))})
	}
	return c
}

// colourCount draws a chart, decodes it and counts its colours.
func colourCount(t *testing.T, c *picture.Chart) int {
	t.Helper()
	var b bytes.Buffer
	if err := PNG(&b, c); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[3]uint32]bool{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			r, g, b, a := img.At(x, y).RGBA()
			if a != 0xffff {
				t.Fatalf("pixel %d, %d is transparent", x, y)
			}
			seen[[3]uint32{r, g, b}] = true
		}
	}
	return len(seen)
}

// TestPNG draws charts of all sizes, and wants to see more colours than one and the colour of every vCPU.
func TestPNG(t *testing.T) {
	for _, cpus := range []*host.Topology{
		host.Synthetic(1, 1, 1, 1, 1), host.Synthetic(1, 1, 1, 2, 1), host.Synthetic(1, 1, 1, 4, 2), host.Synthetic(2, 1, 1, 8, 2), host.Synthetic(2, 2, 2, 16, 2),
	} {
		for _, vcpus := range []int{1, 8, 90} {
			for _, gantt := range []bool{false, true} {
				c := chart(cpus, vcpus, 3, 300, gantt)
				if n := colourCount(t, c); n < 3+min(vcpus, 8) {
					t.Errorf("%s, Gantt %v: %d colours", c.Title, gantt, n)
				}
			}
		}
	}
}

// TestEmpty draws charts with as little in them as may be, and names that are no text.
func TestEmpty(t *testing.T) {
	one := host.Synthetic(1, 1, 1, 1, 1)
	for name, c := range map[string]*picture.Chart{
		"no vCPU":   {Placement: &picture.Placement{Host: one}},
		"no time":   {Gantt: &picture.Gantt{CPUs: []int{0}}},
		"one point": {Gantt: &picture.Gantt{CPUs: []int{7}, VCPUs: []picture.VCPU{{}}, Spans: []picture.Span{{}}}},
		"an age":    {Gantt: &picture.Gantt{CPUs: []int{7}, VCPUs: []picture.VCPU{{}}, Spans: []picture.Span{{To: math.MaxInt64}}}},
		"no load":   {Placement: &picture.Placement{Host: one, VCPUs: []picture.VCPU{{Name: "a"}}}},
		"overload":  {Placement: &picture.Placement{Host: one, VCPUs: []picture.VCPU{{Load: picture.MaxCPUs}, {Load: 1e-300}}}},
		"names":     {Title: "\x00\xff\n😀" + strings.Repeat("x", 200), Placement: &picture.Placement{Host: one, VCPUs: []picture.VCPU{{Name: "\x1b[31m\xff✂", Load: 1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if colourCount(t, c) < 2 {
				t.Error("the picture is blank")
			}
		})
	}
}

// FuzzPNG draws any chart that is let in.
func FuzzPNG(f *testing.F) {
	for _, c := range []*picture.Chart{chart(host.Synthetic(1, 1, 1, 2, 2), 5, 2, 9, true), chart(host.Synthetic(1, 1, 1, 2, 2), 5, 2, 0, false)} {
		b, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"gantt":{"cpus":[1],"vcpus":[{"load":1e400}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := picture.Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := PNG(&b, c); err != nil {
			t.Fatal(err)
		}
		if _, err := png.DecodeConfig(&b); err != nil {
			t.Fatal(err)
		}
	})
}
