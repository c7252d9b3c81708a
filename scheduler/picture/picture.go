// Package picture says what pictures of the scheduler show: who ran when on which CPU, and where vCPUs are placed.
//
// It has no drawing in it. What draws, package draw, is built on gonum.org/v1/plot, whose packages parse fonts and tables whenever a
// program that contains them starts: 0.5 ms and 8 MB, measured, that every `qenex run` would pay for a picture that few ask for. So a
// program of its own draws, qenex-picture, which gets a Chart as JSON, and Save is how others call it.
package picture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/host"
)

// Chart is a picture. Exactly one of Gantt and Placement is set.
type Chart struct {
	Title     string     `json:"title"`
	Gantt     *Gantt     `json:"gantt,omitempty"`
	Placement *Placement `json:"placement,omitempty"`
}

// VCPU is a virtual CPU in a picture. Those of one group have shades of one colour; without a group, it has its own.
type VCPU struct {
	Name  string  `json:"name"`
	Group string  `json:"group,omitempty"`
	CPU   int     `json:"cpu"`  // in a Placement: where it is, an index into Host.CPUs
	Load  float64 `json:"load"` // in a Placement: CPUs of capacity 1, 0 to 1
}

// Gantt shows who ran when: a row for each CPU.
type Gantt struct {
	CPUs  []int  `json:"cpus"` // their IDs
	VCPUs []VCPU `json:"vcpus"`
	Spans []Span `json:"spans"`
}

// Span is a time during which a vCPU had a CPU: indexes into VCPUs and CPUs, and nanoseconds.
type Span struct {
	CPU  int           `json:"cpu"`
	VCPU int           `json:"vcpu"`
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}

// Placement shows packages, caches, cores and their threads with the vCPUs on them.
type Placement struct {
	Host  *host.Topology `json:"host"`
	VCPUs []VCPU         `json:"vcpus"`
}

// Bounds of a chart.
const (
	MaxCPUs  = 1024
	MaxVCPUs = 8192
	MaxSpans = 500_000
	MaxName  = 256 // bytes of a name, group or title
	maxChart = 256 << 20
)

// Check tells what is wrong with a chart.
func (c *Chart) Check() error {
	var vcpus []VCPU
	var cpus int
	switch {
	case (c.Gantt == nil) == (c.Placement == nil):
		return errors.New("a chart is either a Gantt chart or a placement")
	case c.Gantt != nil:
		vcpus, cpus = c.Gantt.VCPUs, len(c.Gantt.CPUs)
	default:
		if err := c.Placement.Host.Check(); err != nil {
			return err
		}
		vcpus, cpus = c.Placement.VCPUs, len(c.Placement.Host.CPUs)
	}
	if cpus < 1 || cpus > MaxCPUs || len(vcpus) > MaxVCPUs || len(c.Title) > MaxName {
		return fmt.Errorf("%d CPUs, %d vCPUs and a title of %d bytes: 1 to %d, at most %d and %d are possible", cpus, len(vcpus), len(c.Title), MaxCPUs, MaxVCPUs, MaxName)
	}
	for i, v := range vcpus {
		switch {
		case len(v.Name) > MaxName || len(v.Group) > MaxName:
			return fmt.Errorf("vCPU %d: a name of more than %d bytes", i, MaxName)
		case c.Placement != nil && (v.CPU < 0 || v.CPU >= cpus):
			return fmt.Errorf("vCPU %.40q is on CPU %d of %d", v.Name, v.CPU, cpus)
		case !(v.Load >= 0) || math.IsInf(v.Load, 0) || v.Load > MaxCPUs:
			return fmt.Errorf("vCPU %.40q has load %v", v.Name, v.Load)
		}
	}
	if c.Gantt == nil {
		return nil
	}
	if len(c.Gantt.Spans) > MaxSpans {
		return fmt.Errorf("%d stretches of time are more than the %d that fit into a picture: draw a shorter run", len(c.Gantt.Spans), MaxSpans)
	}
	for i, s := range c.Gantt.Spans {
		if s.CPU < 0 || s.CPU >= cpus || s.VCPU < 0 || s.VCPU >= len(vcpus) || s.From < 0 || s.To < s.From {
			return fmt.Errorf("stretch %d of time is %+v: there are %d CPUs and %d vCPUs", i, s, cpus, len(vcpus))
		}
	}
	return nil
}

// Read reads and checks a chart.
func Read(r io.Reader) (*Chart, error) {
	d := json.NewDecoder(io.LimitReader(r, maxChart))
	d.DisallowUnknownFields()
	c := &Chart{}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("reading a chart: %w", err)
	}
	return c, c.Check()
}

// Program is the name of the program that draws.
const Program = "qenex-picture"

// find returns the path of the program that draws: beside this one, or in PATH.
func find() (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), Program)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("the program that draws is neither beside qenex nor in PATH; `make build` makes bin/%s: %w", Program, err)
	}
	return path, nil
}

// Save draws a chart into a PNG file.
func (c *Chart) Save(ctx context.Context, file string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("drawing %s: %w", file, err)
		}
	}()
	if err := c.Check(); err != nil {
		return err
	}
	path, err := find()
	if err != nil {
		return err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	var png, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &png, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(errs.String()))
	}
	return os.WriteFile(file, png.Bytes(), 0o666)
}

// Shade is a vCPU's colour: the number of its group, and its number in it, of so many.
type Shade struct{ Group, Member, Members int }

// Shades groups vCPUs for their colours. It returns the names of the groups in the order in which they come.
func Shades(vcpus []VCPU) (groups []string, shades []Shade) {
	numbers := map[string]int{}
	var members []int
	shades = make([]Shade, len(vcpus))
	for i, v := range vcpus {
		key := "g" + v.Group
		if v.Group == "" {
			key = fmt.Sprint("v", i)
		}
		n, known := numbers[key]
		if !known {
			n = len(groups)
			numbers[key] = n
			groups, members = append(groups, v.Group), append(members, 0)
			if v.Group == "" {
				groups[n] = v.Name
			}
		}
		shades[i] = Shade{Group: n, Member: members[n]}
		members[n]++
	}
	for i := range shades {
		shades[i].Members = members[shades[i].Group]
	}
	return groups, shades
}
