// Package crb is the guest's side of a TPM: the command response buffer interface of the TCG PC Client Platform TPM Profile, locality 0
// only. It turns accesses of a page of MMIO into commands.
//
// It knows no bus and no virtual machine: who has a bus registers Size bytes at Base, and names the control area, Base+ControlArea, in
// the ACPI table TPM2 with start method 7 (CRB). Nothing a guest writes is trusted.
package crb

import (
	"encoding/binary"
	"sync"
)

// Where the page is on a PC, how large it is, and where in it the control area begins.
const (
	Base        = 0xfed40000
	Size        = 0x1000
	ControlArea = ctrlReq
)

// Registers, by their offset.
const (
	locState   = 0x00
	locCtrl    = 0x08
	locSts     = 0x0c
	intfID     = 0x30
	ctrlReq    = 0x40
	ctrlSts    = 0x44
	ctrlCancel = 0x48
	ctrlStart  = 0x4c
	cmdSize    = 0x58
	cmdAddress = 0x5c // 64 bits, in two halves
	rspSize    = 0x64
	rspAddress = 0x68 // 64 bits
	buffer     = 0x80
	bufferSize = Size - buffer
)

const (
	established = 1 << 0 // locState: the TPM was not started by a dynamic launch
	assigned    = 1 << 1 //           locality 0 has the TPM
	valid       = 1 << 7 //           these bits are valid
	request     = 1 << 0 // locCtrl
	relinquish  = 1 << 1
	granted     = 1 << 0 // locSts
	cmdReady    = 1 << 0 // ctrlReq
	goIdle      = 1 << 1
	failed      = 1 << 0 // ctrlSts
	idle        = 1 << 1
	start       = 1 << 0 // ctrlStart

	// CRB (1), version 1, transfers of 64 bytes, CRB capable, CRB selected and locked. No vendor.
	interfaceID = 1 | 1<<4 | 3<<11 | 1<<14 | 1<<17 | 1<<19

	headerSize    = 10
	rcCommandSize = 0x142
)

// TPM executes a command.
type TPM interface {
	Command(cmd []byte) (rsp []byte, err error)
}

// Device is the page. Its methods may be called by any goroutine.
type Device struct {
	tpm TPM

	mu      sync.Mutex
	page    [Size]byte
	running bool // a goroutine has the command; the guest must wait
	closed  bool
	done    sync.WaitGroup
}

// New makes the page for a TPM that is already started. base is the page's guest-physical address.
func New(t TPM, base uint64) *Device {
	d := &Device{tpm: t}
	d.set(locState, established|valid)
	d.set(intfID, interfaceID)
	d.set(ctrlSts, idle)
	for _, at := range []int{cmdSize, rspSize} {
		d.set(at, bufferSize)
	}
	for _, at := range []int{cmdAddress, rspAddress} {
		binary.LittleEndian.PutUint64(d.page[at:], base+buffer)
	}
	return d
}

// Close waits until the command that runs is executed. No other is begun.
func (d *Device) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.done.Wait()
}

func (d *Device) set(at int, v uint32) { binary.LittleEndian.PutUint32(d.page[at:], v) }
func (d *Device) get(at int) uint32    { return binary.LittleEndian.Uint32(d.page[at:]) }

// Read reads from the page; beyond it everything is 0xff.
func (d *Device) Read(off uint64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	if off < Size {
		n = copy(p, d.page[off:])
	}
	for i := range p[n:] {
		p[n+i] = 0xff
	}
}

// Write writes to the page. What is not a register or the buffer, or not now, is ignored.
func (d *Device) Write(off uint64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= Size || d.running {
		return
	}
	if off >= buffer {
		if d.owned() {
			copy(d.page[off:], p)
		}
		return
	}
	var v [4]byte
	copy(v[:], p)
	d.control(off, binary.LittleEndian.Uint32(v[:]))
}

// owned says whether locality 0 has the TPM, and the TPM is ready for a command.
func (d *Device) owned() bool { return d.get(locState)&assigned != 0 && d.get(ctrlSts)&idle == 0 }

func (d *Device) control(off uint64, v uint32) {
	switch off {
	case locCtrl:
		switch {
		case v&request != 0:
			d.set(locState, d.get(locState)|assigned)
			d.set(locSts, granted)
		case v&relinquish != 0:
			d.set(locState, d.get(locState)&^assigned)
			d.set(locSts, 0)
		}
	case ctrlReq: // its bits are cleared at once: both changes take no time here
		if d.get(locState)&assigned == 0 {
			return
		}
		switch v {
		case cmdReady:
			d.set(ctrlSts, d.get(ctrlSts)&^idle)
		case goIdle:
			d.set(ctrlSts, d.get(ctrlSts)|idle)
			clear(d.page[buffer:]) // what one user of the TPM got, the next does not
		}
	case ctrlStart:
		if v == start && d.owned() && !d.closed {
			d.execute()
		}
	}
	// A command that is to be cancelled is executed to its end, which the profile allows; so ctrlCancel does nothing.
}

// execute begins to execute the command in the buffer. The guest sees its end in ctrlStart.
func (d *Device) execute() {
	size := binary.BigEndian.Uint32(d.page[buffer+2:])
	if size < headerSize || size > bufferSize {
		d.respond([]byte{0x80, 0x01, 0, 0, 0, headerSize, 0, 0, rcCommandSize >> 8, rcCommandSize & 0xff})
		return
	}
	cmd := append([]byte(nil), d.page[buffer:buffer+size]...)
	d.running = true
	d.set(ctrlStart, start)
	d.done.Go(func() {
		rsp, err := d.tpm.Command(cmd)
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil || len(rsp) > bufferSize {
			d.set(ctrlSts, d.get(ctrlSts)|failed)
		} else {
			d.respond(rsp)
		}
		d.set(ctrlStart, 0)
		d.running = false
	})
}

func (d *Device) respond(rsp []byte) {
	n := copy(d.page[buffer:], rsp)
	clear(d.page[buffer+n:])
}
