package device

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	postBase     = 0x80
	debugconBase = 0xe9
)

// POST is the diagnostics port (0x80). Linux writes to it for nothing but the delay, so
// it must cost nothing; the last code is kept for the run report.
type POST struct{ last atomic.Uint32 }

// NewPOST returns the port.
func NewPOST() *POST { return &POST{} }

// Last returns the last code written, 0 before the first.
func (d *POST) Last() byte { return byte(d.last.Load()) }

// Registrations returns the port.
func (d *POST) Registrations() []Registration {
	return []Registration{{Name: "post", Base: postBase, Size: 1, IRQ: -1, Handler: Bytes{
		In:  func(uint64) byte { return d.Last() },
		Out: func(_ uint64, v byte) { d.last.Store(uint32(v)) },
	}}}
}

// Debugcon is the debug console (0xe9) of Bochs and QEMU: what is written comes out.
// Its output is carried like that of Serial: never blocking, dropped and counted when
// the writer cannot follow.
type Debugcon struct{ out output }

// NewDebugcon returns a console that writes to w.
func NewDebugcon(w io.Writer) *Debugcon { return &Debugcon{out: output{w: w}} }

// Registrations returns the port. It reads 0xe9, by which guests know it is there.
func (d *Debugcon) Registrations() []Registration {
	return []Registration{{Name: "debugcon", Base: debugconBase, Size: 1, IRQ: -1, Handler: Bytes{
		In:  func(uint64) byte { return debugconBase },
		Out: func(_ uint64, v byte) { d.out.put(v) },
	}}}
}

// Dropped returns how many bytes were lost.
func (d *Debugcon) Dropped() uint64 { return d.out.lost() }

// Flush waits until the writer has been given all output, or ctx is done.
func (d *Debugcon) Flush(ctx context.Context) error {
	if err := d.out.flush(ctx); err != nil {
		return fmt.Errorf("device: debugcon: output not flushed, its writer is blocked: %w", err)
	}
	return nil
}
