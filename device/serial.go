package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// COM1 and its ISA interrupt.
const (
	SerialBase = 0x3f8
	SerialIRQ  = 4
)

// Register offsets (16550D data sheet, table II). DLL and DLM replace the first two
// while LCR.DLAB is set; FCR is the write side of IIR.
const (
	uartRBR = 0 // receiver buffer; transmitter holding register (THR) when written
	uartIER = 1
	uartIIR = 2
	uartLCR = 3
	uartMCR = 4
	uartLSR = 5
	uartMSR = 6
	uartSCR = 7
)

const (
	ierRDI  = 0x01 // received data
	ierTHRI = 0x02 // transmitter holding register empty
	ierRLSI = 0x04 // receiver line status
	ierMSI  = 0x08 // modem status
	ierMask = 0x0f // the rest reads as zero, which is how Linux tells a 16550A from later chips

	iirMSI  = 0x00
	iirNone = 0x01
	iirTHRI = 0x02
	iirRDI  = 0x04
	iirRLSI = 0x06
	iirCTI  = 0x0c // characters wait in the FIFO, fewer than the trigger level
	iirFIFO = 0xc0 // FIFOs are on

	fcrEnable  = 0x01
	fcrClearRx = 0x02
	fcrStored  = 0xc9 // bits with a lasting effect: enable, DMA mode, trigger level

	lcrDLAB = 0x80

	mcrDTR  = 0x01
	mcrRTS  = 0x02
	mcrOut1 = 0x04
	mcrOut2 = 0x08
	mcrLoop = 0x10
	mcrMask = 0x1f

	lsrDR   = 0x01
	lsrOE   = 0x02
	lsrTHRE = 0x20
	lsrTEMT = 0x40

	msrDCTS = 0x01
	msrDDSR = 0x02
	msrTERI = 0x04
	msrDDCD = 0x08
	msrCTS  = 0x10
	msrDSR  = 0x20
	msrRI   = 0x40
	msrDCD  = 0x80
)

const (
	serialFIFO    = 16
	serialBacklog = 4096 // bytes of input that wait outside the UART

	// pollsForInput is how many LSR reads without any write in between are taken as
	// the guest polling for input: output polling and probing write after fewer.
	pollsForInput = 4
)

// Serial is a 16550A UART with its FIFOs (National Semiconductor PC16550D data sheet).
//
// Output is instantaneous for the guest: a byte is handed to a goroutine that writes
// it to the writer straight away, together with what gathered while the writer was
// busy. A writer that stays blocked fills a queue of 64 KiB; then LSR.THRE stays
// clear and the THRE interrupt is withheld until there is room, which stops an
// interrupt-driven guest without loss. Bytes written in spite of a clear THRE, and
// bytes that the writer refuses, are dropped and counted in Dropped. The baud rate is
// stored and has no effect.
//
// Input waits in a backlog of 4 KiB and enters the receiver FIFO only when that is
// empty, so the FIFO never overruns from the host's side. It waits there too until the
// guest has shown that it listens, by enabling the receive interrupt or by polling
// LSR: bytes that arrive before the guest's driver is up are not lost in its resets
// of the FIFO, but a guest that reads RBR blindly, doing neither, sees none.
//
// The interrupt line is not gated by MCR.OUT2.
type Serial struct {
	irq   IRQLine
	out   output
	space chan struct{} // gets a token, if it has none, when backlog shrinks

	mu sync.Mutex // guards all below; taken before out.mu

	ier, lcr, mcr, fcr, scr, dll, dlm byte

	msr     byte // as MSR reads: inputs in the high half, changes in the low half
	overrun bool // LSR.OE

	fifo    ring // received, what RBR reads
	backlog ring // not yet received
	polls   int  // LSR reads since the last register write, up to pollsForInput

	thrPending bool // THRE interrupt is due (if IER.THRI)
	txFull     bool // LSR.THRE is clear
	txBurst    bool // THR was written since IIR or LSR was last read
	level      bool // of irq
}

// NewSerial returns a UART after reset. out receives what the guest sends, nil drops
// it; Write is called from one goroutine at a time. The caller keeps out.
func NewSerial(out io.Writer, irq IRQLine) *Serial {
	s := &Serial{
		irq:     irq,
		space:   make(chan struct{}, 1),
		lcr:     0x03, // 8N1
		dll:     1,    // 115200 baud
		fifo:    newRing(serialFIFO),
		backlog: newRing(serialBacklog),
	}
	s.msr = s.modemLines()
	s.out.w, s.out.room = out, s.transmitterReady
	return s
}

// Registrations returns the UART's eight ports at base with interrupt line irq.
func (s *Serial) Registrations(base uint64, irq int) []Registration {
	return []Registration{{Name: "serial", Base: base, Size: 8, IRQ: irq, Handler: Bytes{In: s.in, Out: s.outb}}}
}

// Dropped returns how many bytes of output were lost to a full queue or a failing writer.
func (s *Serial) Dropped() uint64 { return s.out.lost() }

// Flush waits until the writer has been given all output. If the writer is blocked
// it returns ctx's error; the goroutine inside the writer ends when Write returns.
func (s *Serial) Flush(ctx context.Context) error {
	if err := s.out.flush(ctx); err != nil {
		return fmt.Errorf("device: serial: output not flushed, its writer is blocked: %w", err)
	}
	return nil
}

// Feed offers input to the guest without blocking and returns how many bytes of p
// were taken; the rest found no room.
func (s *Serial) Feed(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.backlog.push(p...)
	s.refill()
	return n
}

// Input feeds all of r to the guest, waiting whenever the guest is slow. It returns
// nil at the end of r, ctx's error once ctx is done, and r's error otherwise; a Read
// in progress is not interrupted, so stop r as well (see terminal.Reader.Stop).
func (s *Serial) Input(ctx context.Context, r io.Reader) error {
	buf := make([]byte, 512)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		for p := buf[s.Feed(buf[:n]):n]; len(p) > 0; p = p[s.Feed(p):] {
			select {
			case <-s.space:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("device: serial: reading input: %w", err)
		}
	}
}

func (s *Serial) in(off uint64) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	dlab := s.lcr&lcrDLAB != 0
	switch off {
	case uartRBR:
		if dlab {
			return s.dll
		}
		v := s.fifo.pop()
		s.refill()
		return v
	case uartIER:
		if dlab {
			return s.dlm
		}
		return s.ier
	case uartIIR:
		v := s.source()
		if v == iirTHRI {
			s.thrPending = false
		}
		s.txBurst = false
		s.update()
		if s.fcr&fcrEnable != 0 {
			v |= iirFIFO
		}
		return v
	case uartLCR:
		return s.lcr
	case uartMCR:
		return s.mcr
	case uartLSR:
		s.polls = min(s.polls+1, pollsForInput)
		s.refill()
		v := s.lineStatus()
		s.overrun, s.txBurst = false, false
		s.update()
		return v
	case uartMSR:
		v := s.msr
		s.msr &^= msrDCTS | msrDDSR | msrTERI | msrDDCD
		s.update()
		return v
	default:
		return s.scr
	}
}

func (s *Serial) outb(off uint64, v byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = 0
	dlab := s.lcr&lcrDLAB != 0
	switch off {
	case uartRBR:
		if dlab {
			s.dll = v
		} else {
			s.transmit(v)
		}
	case uartIER:
		if dlab {
			s.dlm = v
			return
		}
		// Enabling THRI while THR is empty interrupts at once, even if IIR has
		// already acknowledged that emptiness: Linux tests for it at start-up and
		// relies on it to begin every transmission.
		if v&^s.ier&ierTHRI != 0 {
			s.thrPending = !s.txFull
		}
		s.ier = v & ierMask
		s.refill()
	case uartIIR: // FCR
		if (v^s.fcr)&fcrEnable != 0 || v&(fcrEnable|fcrClearRx) == fcrEnable|fcrClearRx {
			s.fifo.clear()
		}
		s.fcr = 0 // the other bits are only programmed together with the enable bit
		if v&fcrEnable != 0 {
			s.fcr = v & fcrStored
		}
		s.refill()
	case uartLCR:
		s.lcr = v
	case uartMCR:
		s.mcr = v & mcrMask
		s.modemChange()
		s.refill()
	case uartSCR:
		s.scr = v
	}
	s.update()
}

// transmit is a write to THR.
func (s *Serial) transmit(v byte) {
	if s.mcr&mcrLoop != 0 {
		if s.fifo.n >= s.depth() {
			s.overrun = true
		} else {
			s.fifo.push(v)
		}
		s.thrPending = true
		return
	}
	if !s.txBurst {
		s.drop()
		s.txBurst = true
	}
	s.txFull = !s.out.put(v)
	s.thrPending = !s.txFull
}

// transmitterReady is called when a full output queue has emptied.
func (s *Serial) transmitterReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.txFull && s.out.hasRoom() {
		s.txFull = false
		s.thrPending = true
		s.update()
	}
}

// refill moves input into an empty FIFO if the guest listens, and drives the line.
func (s *Serial) refill() {
	listens := s.ier&ierRDI != 0 || s.polls >= pollsForInput
	if listens && s.mcr&mcrLoop == 0 && s.fifo.n == 0 && s.backlog.n > 0 {
		for s.fifo.n < s.depth() && s.backlog.n > 0 {
			s.fifo.push(s.backlog.pop())
		}
		s.drop()
		select {
		case s.space <- struct{}{}:
		default:
		}
	}
	s.update()
}

// depth is how many bytes the receiver holds.
func (s *Serial) depth() int {
	if s.fcr&fcrEnable != 0 {
		return serialFIFO
	}
	return 1
}

func (s *Serial) lineStatus() byte {
	var v byte
	if s.fifo.n > 0 {
		v |= lsrDR
	}
	if s.overrun {
		v |= lsrOE
	}
	if !s.txFull {
		v |= lsrTHRE | lsrTEMT
	}
	return v
}

// modemLines is the high half of MSR: a peer that is always ready or, in loopback,
// our own outputs.
func (s *Serial) modemLines() byte {
	if s.mcr&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	var v byte
	for _, w := range [...]struct{ out, in byte }{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD}} {
		if s.mcr&w.out != 0 {
			v |= w.in
		}
	}
	return v
}

// modemChange brings MSR up to date after a change of MCR.
func (s *Serial) modemChange() {
	now := s.modemLines()
	diff := (s.msr ^ now) & 0xf0
	delta := diff >> 4 &^ msrTERI
	if diff&msrRI != 0 && now&msrRI == 0 {
		delta |= msrTERI // only the trailing edge counts
	}
	s.msr = now | s.msr&0x0f | delta
}

// source is the IIR value of the pending interrupt with the highest priority.
func (s *Serial) source() byte {
	trigger := [4]int{1, 4, 8, 14}[s.fcr>>6]
	switch {
	case s.ier&ierRLSI != 0 && s.overrun:
		return iirRLSI
	case s.ier&ierRDI != 0 && s.fifo.n > 0:
		// The time-out that follows four silent character times is given at once.
		if s.fcr&fcrEnable != 0 && s.fifo.n < trigger {
			return iirCTI
		}
		return iirRDI
	case s.ier&ierTHRI != 0 && s.thrPending:
		return iirTHRI
	case s.ier&ierMSI != 0 && s.msr&0x0f != 0:
		return iirMSI
	}
	return iirNone
}

// update drives the interrupt line if its level has changed.
func (s *Serial) update() {
	if level := s.source() != iirNone; level != s.level {
		s.level = level
		s.irq.set(level)
	}
}

// drop releases the line until the next update, which gives an edge if an interrupt is
// still due. ISA interrupts are edge-triggered, and a handler that gives up its loop
// while the line is high (Linux does after 512 rounds) would never be called again. A
// real UART's line falls often, as sending and receiving take time; ours is made to
// fall once for each burst sent and each FIFO received.
func (s *Serial) drop() {
	if s.level {
		s.level = false
		s.irq.set(false)
	}
}

// SerialState is a Serial's state in a snapshot. Output that the guest has sent is
// not in it: it belongs to the writer (see Flush).
type SerialState struct {
	IER, LCR, MCR, FCR, SCR, DLL, DLM, MSR byte

	Overrun    bool
	THRPending bool
	FIFO       []byte // received and not read, at most 16 bytes
	Backlog    []byte // input not yet received, at most 4 KiB
}

// ErrState is wrapped by the errors of loading a state that no device can be in.
var ErrState = errors.New("impossible device state")

// Save returns the present state.
func (s *Serial) Save() SerialState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SerialState{
		IER: s.ier, LCR: s.lcr, MCR: s.mcr, FCR: s.fcr, SCR: s.scr, DLL: s.dll, DLM: s.dlm, MSR: s.msr,
		Overrun: s.overrun,
		// A full output queue is the host's affair; where it is not full, THRE holds.
		THRPending: s.thrPending || s.txFull,
		FIFO:       s.fifo.bytes(),
		Backlog:    s.backlog.bytes(),
	}
}

// Load replaces the state, input not yet read included, and drives the interrupt
// line to the level that follows. On an error (ErrState) nothing has changed.
func (s *Serial) Load(st SerialState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(st.FIFO) > serialFIFO || len(st.Backlog) > serialBacklog {
		return fmt.Errorf("device: serial: %w: %d bytes in the FIFO (at most %d), %d in the backlog (at most %d)",
			ErrState, len(st.FIFO), serialFIFO, len(st.Backlog), serialBacklog)
	}
	s.ier, s.lcr, s.mcr, s.scr, s.dll, s.dlm = st.IER&ierMask, st.LCR, st.MCR&mcrMask, st.SCR, st.DLL, st.DLM
	s.fcr = st.FCR & fcrStored
	s.msr = s.modemLines() | st.MSR&0x0f
	s.overrun = st.Overrun
	s.fifo.clear()
	s.fifo.push(st.FIFO...)
	s.backlog.clear()
	s.backlog.push(st.Backlog...)
	s.polls, s.txBurst = 0, false
	s.txFull = !s.out.hasRoom()
	s.thrPending = st.THRPending && !s.txFull
	s.level = s.source() != iirNone
	s.irq.set(s.level)
	s.refill()
	select {
	case s.space <- struct{}{}: // the backlog may be shorter than an Input waits for
	default:
	}
	return nil
}
