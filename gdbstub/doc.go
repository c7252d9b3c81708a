// Package gdbstub lets gdb debug a guest's kernel, by gdb's remote serial protocol over TCP or a unix socket: registers (general, x87,
// SSE, segments, control), memory through the guest's page tables, breakpoints, watchpoints, steps, Ctrl-C; a thread is a vCPU.
//
// The description of a guest's registers is that of x86-64 whatever mode it is in, and addresses are linear. While gdb has control, no vCPU runs
// but the one that is stepped. What of breakpoints and watchpoints the KVM at hand can do is found out with small guests when gdb
// connects; what it cannot is refused. Whoever may connect owns the guest: there is no authentication in the protocol.
//
// It knows vCPUs and memory; machines, devices and command lines stay out.
package gdbstub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// Target is the machine to be debugged.
type Target interface {
	VCPUs() []*vcpu.VCPU         // at least one, always the same
	Memory() *memmap.Memory      // the guest's RAM
	Start() error                // is called by gdb's first "continue" if the machine has not been started
	Pause(context.Context) error // returns when no vCPU runs
	Resume() error
}

// patience is how long the vCPUs may take to leave the guest.
const patience = 10 * time.Second

// Serve lets one gdb after the other debug the machine, until ctx ends or l fails; it closes l. A gdb that connects finds the machine paused,
// and when it goes, however it goes, its breakpoints go too and the machine runs on. A session that ends badly is told to report, which may be nil.
func Serve(ctx context.Context, l net.Listener, t Target, report func(error)) error {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for gdb: %w", err)
		}
		if err := session(ctx, c, t); err != nil && report != nil {
			report(fmt.Errorf("gdb at %v: %w", c.RemoteAddr(), err))
		}
	}
}

// session serves one connection and closes it.
func session(ctx context.Context, c net.Conn, t Target) error {
	defer c.Close()
	abilities, err := probeKVM()
	if err != nil {
		return err
	}
	m := machine{memory: t.Memory(), start: t.Start, pause: t.Pause, resume: t.Resume}
	for _, v := range t.VCPUs() {
		m.cpus = append(m.cpus, v)
	}
	s := newStub(m, abilities)
	return s.serve(ctx, c)
}

// probeKVM finds out what this host's KVM has.
func probeKVM() (probe.DebugResult, error) {
	sys, err := kvm.Open()
	if err != nil {
		return probe.DebugResult{}, err
	}
	r, err := probe.Debug(sys)
	return r, errors.Join(err, sys.Close())
}
