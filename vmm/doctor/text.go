package doctor

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// Text writes the report for people, with ANSI colours if asked.
func (r Report) Text(w io.Writer, color bool) error {
	p := &printer{color: color}
	p.kvm(&r)
	if r.Measured != nil {
		p.measured(r.Measured)
	}
	p.native(&r)
	if r.KVM.Usable {
		p.section("KVM capabilities")
		p.checks(r.Capabilities)
	}
	p.host(&r.Host)
	p.verdict(&r)
	_, err := w.Write(p.buf.Bytes())
	return err
}

type printer struct {
	buf   bytes.Buffer
	color bool
}

// ANSI colours.
const (
	red, green, yellow, bold = "31", "32", "33", "1"
)

func (p *printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) section(name string) { fmt.Fprintf(&p.buf, "\n%s\n", p.paint(bold, name)) }

// line is one row: mark, name, text.
func (p *printer) line(mark, name, text string) {
	fmt.Fprintln(&p.buf, strings.TrimRight(fmt.Sprintf("  %s %-35s %s", mark, name, text), " "))
}

func (p *printer) mark(found bool, needed Needed) string {
	switch {
	case found:
		return p.paint(green, "✓")
	case needed == Required:
		return p.paint(red, "✗")
	}
	return p.paint(yellow, "✗")
}

func (p *printer) kvm(r *Report) {
	fmt.Fprintln(&p.buf, p.paint(bold, "KVM"))
	k := &r.KVM
	if !k.Usable {
		p.line(p.mark(false, Required), k.Path, k.Error)
		p.line(" ", "", "do: "+k.Fix)
		return
	}
	p.line(p.mark(true, Required), k.Path, fmt.Sprintf("API version %d", k.API))
	text := string(k.Kind)
	if k.Module != "" {
		text += ", module " + k.Module
	}
	if k.Nested {
		text += ", on a host that is a VM itself"
	}
	p.line(p.mark(k.Kind != KindUnknown, Optional), "kind", text)
}

// native prints what the core of native guests can do.
func (p *printer) native(r *Report) {
	if r.Native == nil && r.NativeError == "" {
		return
	}
	p.section("Native guests")
	if r.Native == nil {
		p.line(p.mark(false, Performance), "core", r.NativeError)
		return
	}
	f := r.Native
	p.line(p.mark(true, Performance), "core", "SYSCALL arrives at "+f.Entry)
	p.times([]timed{
		{"make the VM", f.MakeNS},
		{"system call with an exit", f.CallNS},
		{"system call without an exit", f.ExitlessNS},
		{"context switch in the guest, median", f.SwitchNS},
	})
}

// timed is a measurement in nanoseconds; 0 is none.
type timed struct {
	name string
	ns   float64
}

// times prints what was measured.
func (p *printer) times(list []timed) {
	for _, t := range list {
		if t.ns > 0 {
			p.line(" ", t.name, duration(t.ns))
		}
	}
}

func (p *printer) measured(m *probe.Result) {
	p.section("Measured with small guests")
	p.times([]timed{
		{"create and close VM and vCPU", m.CreateNS},
		{"loop step in guest kernel (CPL 0)", m.CPL0LoopNS},
		{"loop step in guest program (CPL 3)", m.CPL3LoopNS},
		{"port exit and back from CPL 0", m.PortExitCPL0NS},
		{"port exit and back from CPL 3", m.PortExitCPL3NS},
		{"MMIO exit and back", m.MMIOExitNS},
		{"SYSCALL and back", m.SyscallNS},
	})
	p.line(p.mark(m.Syscall == probe.Architectural, Performance), "SYSCALL", string(m.Syscall))
	if m.Hypercall.Name == "" {
		return // measuring was cut short before this
	}
	p.line(p.mark(m.Hypercall.Outcome == probe.Works, Optional), m.Hypercall.Name, string(m.Hypercall.Outcome))
	masking := "honoured"
	if !m.CPUIDLeaks.Honoured() {
		masking = "guests see features they were not given"
	}
	p.line(p.mark(m.CPUIDLeaks.Honoured(), Optional), "CPUID masking", masking)
	gaps := m.Missing()
	text := fmt.Sprintf("all %d tried work", len(m.Instructions))
	if len(gaps) > 0 {
		names := make([]string, len(gaps))
		for i, g := range gaps {
			names[i] = g.Name
		}
		text = fmt.Sprintf("%d of %d missing or wrong: %s", len(gaps), len(m.Instructions), strings.Join(names, ", "))
	}
	p.line(p.mark(len(gaps) == 0, Performance), "instructions at CPL 0", text)
}

// duration writes nanoseconds in a unit that leaves three digits or so.
func duration(ns float64) string {
	switch {
	case ns >= 1e6:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	case ns >= 1e3:
		return fmt.Sprintf("%.2f us", ns/1e3)
	}
	return fmt.Sprintf("%.2f ns", ns)
}

func (p *printer) checks(checks []Check) {
	for _, c := range checks {
		text := c.Detail
		if c.Value > 1 {
			text = fmt.Sprint(c.Value)
		}
		if c.Found {
			p.line(p.mark(true, c.Needed), c.Name, text)
			continue
		}
		p.line(p.mark(false, c.Needed), c.Name, fmt.Sprintf("%s: %s", c.Needed, c.Cost))
		p.line(" ", "", "do: "+c.Fix)
	}
}

func (p *printer) host(h *Host) {
	p.section("Host")
	p.line(" ", "CPUs", fmt.Sprint(h.CPUs))
	p.line(" ", "memory", fmt.Sprintf("%d MiB, %d MiB available", h.MemoryTotalKiB/1024, h.MemoryAvailableKiB/1024))
	p.line(" ", "transparent huge pages", fmt.Sprintf("%s, shared memory %s", orNone(h.THP), orNone(h.THPShared)))
	for _, pool := range h.HugePools {
		p.line(" ", fmt.Sprintf("huge pages of %d KiB", pool.PageKiB), fmt.Sprintf("%d, %d free", pool.Total, pool.Free))
	}
	p.checks(h.Features)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (p *printer) verdict(r *Report) {
	p.section("Verdict")
	if r.Verdict.CanRun {
		p.line(p.mark(true, Required), "guests can run", "recommended kernel: "+r.RecommendedKernel)
	} else {
		p.line(p.mark(false, Required), "guests cannot run", "")
	}
	for _, reason := range r.Verdict.Reasons {
		fmt.Fprintf(&p.buf, "    because %s\n", reason)
	}
	for _, advice := range r.Verdict.Advice {
		fmt.Fprintf(&p.buf, "    advice: %s\n", advice)
	}
}
