package guestkernel

import (
	"bytes"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

// modes runs a test in both run modes, each with a machine of its own.
func modes(t *testing.T, f func(t *testing.T, m *Machine)) {
	for name, mode := range map[string]Mode{"direct": ModeDirect, "exitless": ModeExitless} {
		t.Run(name, func(t *testing.T) {
			kvmtest.NoLeaks(t)
			kvmtest.Open(t)
			m, err := New(Options{Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			f(t, m)
		})
	}
}

func closeAll(c *Context, p *Tiny) error {
	c.Release()
	return p.Close()
}

// program is a tiny program with one context.
func program(t *testing.T, m *Machine, code ...byte) (*Tiny, *Context) {
	t.Helper()
	p, err := m.NewTiny(code)
	if err != nil {
		t.Fatal(err)
	}
	c := m.NewContext()
	t.Cleanup(func() {
		if err := closeAll(c, p); err != nil {
			t.Error(err)
		}
	})
	return p, c
}

func TestHello(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		code := []byte{
			0xB8, 1, 0, 0, 0, // mov eax, TinyWrite
			0x48, 0x8D, 0x3D, 0x14, 0, 0, 0, // lea rdi, [rip+20]
			0xBE, 6, 0, 0, 0, // mov esi, 6
			0x0F, 0x05, // syscall
			0x89, 0xC7, // mov edi, eax
			0xB8, 0, 0, 0, 0, // mov eax, TinyExit
			0x0F, 0x05, // syscall
			0x0F, 0x0B, 0x90, 0x90,
		}
		code = append(code, "hello\n"...)
		p, c := program(t, m, code...)
		var out bytes.Buffer
		p.Out = &out
		exit, err := p.Run(c, &ring0.Regs{})
		if err != nil || exit != 6 || out.String() != "hello\n" {
			t.Errorf("exit %d, %v, output %q", exit, err, out.String())
		}
		t.Logf("SYSCALL arrives at %v; an exit costs %v; %+v", m.Entry(), m.ExitCost(), m.Stats())
	})
}

func BenchmarkSyscall(b *testing.B) {
	for name, mode := range map[string]Mode{"direct": ModeDirect, "exitless": ModeExitless} {
		b.Run(name, func(b *testing.B) {
			kvmtest.Open(b)
			m, err := New(Options{Mode: mode})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			p, err := m.NewTiny([]byte{0xB8, 2, 0, 0, 0, 0x0F, 0x05, 0xEB, 0xF7}) // clock for ever
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			c := m.NewContext()
			defer c.Release()
			r := ring0.Regs{RIP: TinyCode, RSP: TinyStack}
			b.ResetTimer()
			for range b.N {
				if trap := c.Run(p.space, &r); trap.Kind != Syscall {
					b.Fatalf("%+v", trap)
				}
			}
			b.StopTimer()
			s := m.Stats()
			b.ReportMetric(float64(s.Exits)/float64(s.Syscalls), "exits/op")
		})
	}
}

func BenchmarkNew(b *testing.B) {
	kvmtest.Open(b)
	var open, closing time.Duration
	for range b.N {
		begin := time.Now()
		m, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		open += time.Since(begin)
		begin = time.Now()
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
		closing += time.Since(begin)
	}
	b.ReportMetric(float64(open.Microseconds())/float64(b.N), "us/open")
	b.ReportMetric(float64(closing.Microseconds())/float64(b.N), "us/close")
}

// TestSelfTest is also the benchmark of the context switch: its figures are in the log.
func TestSelfTest(t *testing.T) {
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	f, err := SelfTest(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f.CallNS <= 0 || f.SwitchNS <= 0 || f.SwitchMeanNS <= 0 {
		t.Errorf("%+v", f)
	}
	t.Logf("%+v", f)
}

// BenchmarkSelfTest reports the figures of qenex doctor.
func BenchmarkSelfTest(b *testing.B) {
	kvmtest.Open(b)
	var f Figures
	for range b.N {
		var err error
		if f, err = SelfTest(Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(f.CallNS, "ns/call")
	b.ReportMetric(f.ExitlessNS, "ns/exitless-call")
	b.ReportMetric(f.SwitchNS, "ns/switch-median")
	b.ReportMetric(f.SwitchMeanNS, "ns/switch-mean")
}
