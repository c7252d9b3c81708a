// Package console is the virtio console device (virtio 1.2, 5.3) with its one port: what the guest writes goes to an io.Writer, what an io.Reader
// has goes to the guest, and the guest knows the size of the terminal.
//
// Nothing is dropped and nothing piles up: a writer that is slow makes the guest wait, and the reader is read only when the guest has
// room. Neither holds up a reset, however long it blocks. Terminals themselves, KVM and the machine may not enter.
package console

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/qenex/qenex-kernel/virtio"
)

// Queues (virtio 1.2, 5.3.2).
const (
	queueReceive = iota // to the guest
	queueTransmit
)

// featureSize says that the configuration has the terminal's size (virtio 1.2, 5.3.3).
const featureSize = 1 << 0

// chunk is how much is moved at a time, in bytes.
const chunk = 4 << 10

// Config is what makes a Device.
type Config struct {
	// Output gets what the guest writes; what it refuses is lost. Nil drops it.
	Output io.Writer
	// Input is what the guest reads, to its end; nil is nothing. A Read may be on its way when the machine has stopped: it ends when
	// the caller ends it, and what it brings is kept for the next start.
	Input io.Reader
	// Cols and Rows are the size of the terminal in characters, 0 if it is not known.
	Cols, Rows uint16
}

// Device is a virtio console.
type Device struct {
	out    *sink
	in     *source
	served sync.WaitGroup

	mu         sync.Mutex
	cols, rows uint16     // protected by mu
	env        virtio.Env // protected by mu; nil while stopped
}

// New makes a device.
func New(config Config) *Device {
	return &Device{out: newSink(config.Output), in: newSource(config.Input), cols: config.Cols, rows: config.Rows}
}

// Type implements virtio.Device.
func (d *Device) Type() uint32 { return virtio.TypeConsole }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureSize }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 { return []uint16{64, 64} }

// ReadConfig implements virtio.Device: columns and rows (virtio 1.2, 5.3.4).
func (d *Device) ReadConfig(off uint64, p []byte) {
	var b [4]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(b[:], d.cols)
	binary.LittleEndian.PutUint16(b[2:], d.rows)
	d.mu.Unlock()
	clear(p)
	if off < uint64(len(b)) {
		copy(p, b[off:])
	}
}

// WriteConfig implements virtio.Device: nothing can be written.
func (d *Device) WriteConfig(uint64, []byte) {}

// Resize tells the guest of another size of the terminal, in characters.
func (d *Device) Resize(cols, rows uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cols == d.cols && rows == d.rows {
		return
	}
	d.cols, d.rows = cols, rows
	if d.env != nil {
		d.env.ConfigChanged()
	}
}

// Start implements virtio.Device.
func (d *Device) Start(_ uint64, queues []*virtio.Queue, env virtio.Env) error {
	receive, transmit := queues[queueReceive], queues[queueTransmit]
	if receive == nil || transmit == nil {
		return fmt.Errorf("%w: console without both of its queues", virtio.ErrProtocol)
	}
	d.mu.Lock()
	d.env = env
	if d.cols != 0 || d.rows != 0 {
		env.ConfigChanged() // Linux reads the size only then
	}
	d.mu.Unlock()
	for q, f := range map[*virtio.Queue]func(*virtio.Queue, *virtio.Chain) error{receive: d.receive, transmit: d.transmit} {
		d.served.Go(func() {
			if err := q.Serve(func(c *virtio.Chain) error { return f(q, c) }); !errors.Is(err, virtio.ErrStopped) {
				env.Fail(err)
			}
		})
	}
	return nil
}

// Stop implements virtio.Device.
func (d *Device) Stop() {
	d.mu.Lock()
	d.env = nil
	d.mu.Unlock()
	d.served.Wait()
}

// Flush waits, after Stop, until the Writer has been given what the guest wrote. If the Writer is blocked, it is ctx that ends the wait.
func (d *Device) Flush(ctx context.Context) error { return d.out.flush(ctx) }

// transmit takes what the guest writes.
func (d *Device) transmit(q *virtio.Queue, c *virtio.Chain) error {
	if c.WriteLen() > 0 { // virtio 1.2, 5.3.6.1
		return fmt.Errorf("%w: console output in a buffer of %d writable bytes", virtio.ErrProtocol, c.WriteLen())
	}
	var buf [chunk]byte
	for {
		n, err := c.Read(buf[:])
		if err == io.EOF {
			q.Done(c, 0)
			return nil
		}
		if !d.out.put(buf[:n], q) {
			return virtio.ErrStopped
		}
	}
}

// receive gives the guest what there is to read.
func (d *Device) receive(q *virtio.Queue, c *virtio.Chain) error {
	if c.ReadLen() > 0 || c.WriteLen() == 0 { // virtio 1.2, 5.3.6.1
		return fmt.Errorf("%w: a buffer for console input of %d readable and %d writable bytes; it must be writable only", virtio.ErrProtocol, c.ReadLen(), c.WriteLen())
	}
	if !d.in.get(c, q) {
		return virtio.ErrStopped
	}
	q.Done(c, c.Written())
	q.Flush()
	return nil
}
