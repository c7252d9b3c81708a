package device

import "sync"

// I8042IRQ is the keyboard's ISA interrupt.
const I8042IRQ = 1

const (
	i8042Data    = 0x60
	i8042Command = 0x64

	// Status register, read from the command port.
	i8042OBF     = 0x01 // the output buffer holds a byte
	i8042Sys     = 0x04 // self test passed
	i8042WasCmd  = 0x08 // the last write was a command
	i8042Keylock = 0x10 // the keyboard is not locked
	i8042AuxData = 0x20 // the byte is from the mouse port
	i8042Timeout = 0x40 // the device did not answer

	// Command byte, RAM address 0.
	i8042KbdInt = 0x01
	i8042KbdOff = 0x10
	i8042AuxOff = 0x20

	i8042NoDevice = 0xfe // what the controller puts in a missing device's stead: resend
)

// I8042 is a PC keyboard controller with nothing plugged in, kept for what guests
// use it for besides keys: resetting the machine (command 0xFE), the A20 gate's
// bookkeeping and being found. Every command and every byte sent to a device is
// answered at once, for a missing device with the time-out bit and a resend code, so
// that a probing guest never sits out a time-out.
type I8042 struct {
	irq   IRQLine
	reset func()

	mu     sync.Mutex // guards all below
	ram    [32]byte   // ram[0] is the command byte
	status byte       // OBF, Sys, WasCmd, AuxData and Timeout
	data   byte       // the output buffer
	port   byte       // the output port
	await  byte       // the command whose parameter comes next on the data port, 0 for none
	level  bool       // of irq
}

// NewI8042 returns a controller that calls reset (nil: ignored) when the guest pulses
// the reset line. irq may be nil: then a guest that waits for the keyboard's
// interrupt runs into its own time-out.
func NewI8042(irq IRQLine, reset func()) *I8042 {
	k := &I8042{irq: irq, reset: reset, status: i8042Sys, port: 0x03} // reset line high, A20 on
	k.ram[0] = i8042KbdOff | i8042AuxOff
	return k
}

// Registrations returns the data and the command port; irq is I8042IRQ, or -1 if no
// line is connected.
func (k *I8042) Registrations(irq int) []Registration {
	return []Registration{
		{Name: "i8042-data", Base: i8042Data, Size: 1, IRQ: irq, Handler: Bytes{In: k.readData, Out: k.writeData}},
		{Name: "i8042-command", Base: i8042Command, Size: 1, IRQ: irq, Handler: Bytes{In: k.readStatus, Out: k.writeCommand}},
	}
}

func (k *I8042) readStatus(uint64) byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status | i8042Keylock
}

func (k *I8042) readData(uint64) byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status &^= i8042OBF | i8042AuxData | i8042Timeout
	k.update()
	return k.data
}

func (k *I8042) writeData(_ uint64, v byte) {
	if k.parameter(v) && k.reset != nil {
		k.reset()
	}
}

func (k *I8042) writeCommand(_ uint64, v byte) {
	if k.command(v) && k.reset != nil {
		k.reset()
	}
}

// command executes a command and reports whether it resets the machine.
func (k *I8042) command(v byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status |= i8042WasCmd
	k.await = 0
	switch {
	case v >= 0x20 && v <= 0x3f: // read RAM
		k.answer(k.ram[v&0x1f], 0)
	case v >= 0x60 && v <= 0x7f, // write RAM
		v == 0xd1, // write the output port
		v == 0xd2, // put a byte into the output buffer as if from the keyboard
		v == 0xd3, // ... from the mouse
		v == 0xd4: // send to the mouse
		k.await = v
	case v == 0xa7:
		k.ram[0] |= i8042AuxOff
	case v == 0xa8:
		k.ram[0] &^= i8042AuxOff
	case v == 0xa9: // test the mouse port: its clock line is stuck low
		k.answer(0x01, 0)
	case v == 0xaa: // self test
		k.status |= i8042Sys
		k.answer(0x55, 0)
	case v == 0xab: // test the keyboard port: good
		k.answer(0x00, 0)
	case v == 0xad:
		k.ram[0] |= i8042KbdOff
	case v == 0xae:
		k.ram[0] &^= i8042KbdOff
	case v == 0xc0: // read the input port: keyboard not locked
		k.answer(0x80, 0)
	case v == 0xd0: // read the output port
		k.answer(k.port, 0)
	case v >= 0xf0: // pulse the output lines whose bit is 0; line 0 is reset
		return v&0x01 == 0
	}
	return false
}

// parameter takes a byte from the data port and reports whether it resets the machine.
func (k *I8042) parameter(v byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status &^= i8042WasCmd
	cmd := k.await
	k.await = 0
	switch {
	case cmd >= 0x60 && cmd <= 0x7f:
		k.ram[cmd&0x1f] = v
		k.update()
	case cmd == 0xd1:
		k.port = v
		return v&0x01 == 0
	case cmd == 0xd2:
		k.answer(v, 0)
	case cmd == 0xd3, cmd == 0xd4: // no mouse, and no mouse port to loop through
		k.answer(i8042NoDevice, i8042AuxData|i8042Timeout)
	default: // for the keyboard
		k.ram[0] &^= i8042KbdOff
		k.answer(i8042NoDevice, i8042Timeout)
	}
	return false
}

// answer fills the output buffer.
func (k *I8042) answer(v, flags byte) {
	k.data = v
	k.status = k.status&^(i8042AuxData|i8042Timeout) | i8042OBF | flags
	k.update()
}

// update drives the keyboard's interrupt line. The mouse's is not connected.
func (k *I8042) update() {
	if level := k.wants(); level != k.level {
		k.level = level
		k.irq.set(level)
	}
}

// wants tells whether the line should be high: a byte from the keyboard port waits.
func (k *I8042) wants() bool {
	return k.status&(i8042OBF|i8042AuxData) == i8042OBF && k.ram[0]&i8042KbdInt != 0
}

// I8042State is an I8042's state in a snapshot.
type I8042State struct {
	RAM                       [32]byte
	Status, Data, Port, Await byte
}

// Save returns the present state.
func (k *I8042) Save() I8042State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return I8042State{RAM: k.ram, Status: k.status, Data: k.data, Port: k.port, Await: k.await}
}

// Load replaces the state and drives the interrupt line to the level that follows.
func (k *I8042) Load(st I8042State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ram, k.data, k.port, k.await = st.RAM, st.Data, st.Port, st.Await
	k.status = st.Status & (i8042OBF | i8042Sys | i8042WasCmd | i8042AuxData | i8042Timeout)
	k.level = k.wants()
	k.irq.set(k.level)
}
