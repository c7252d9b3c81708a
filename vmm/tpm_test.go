package vmm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/bareguest"
	"github.com/qenex/qenex-kernel/tpm/crb"
)

// fakeTPM answers every command with TPM_RC_SUCCESS and the command's code.
type fakeTPM struct{}

func (fakeTPM) Command(cmd []byte) ([]byte, error) {
	return append([]byte{0x80, 0x01, 0, 0, 0, 14, 0, 0, 0, 0}, cmd[6:10]...), nil
}

// TestTPM executes a command through the page on the bus, as a guest does, and looks for the page in the tables.
func TestTPM(t *testing.T) {
	cfg := bareConfig(t, bareguest.Halt)
	cfg.Tables, cfg.TPM = ACPI, fakeTPM{}
	m := newMachine(t, cfg)

	page := func(off uint64, v uint32) {
		m.MMIO.Write(crb.Base+off, binary.LittleEndian.AppendUint32(nil, v))
	}
	get := func(off uint64) uint32 {
		var b [4]byte
		m.MMIO.Read(crb.Base+off, b[:])
		return binary.LittleEndian.Uint32(b[:])
	}
	page(0x08, 1) // request the locality
	page(0x40, 1) // command ready
	cmd := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81}
	m.MMIO.Write(crb.Base+0x80, cmd[:8])
	m.MMIO.Write(crb.Base+0x88, cmd[8:])
	page(0x4c, 1) // start
	for end := time.Now().Add(patience); get(0x4c) != 0; {
		if time.Now().After(end) {
			t.Fatal("the command goes on and on")
		}
	}
	if code := get(0x80 + 10); binary.BigEndian.Uint32(binary.LittleEndian.AppendUint32(nil, code)) != 0x181 {
		t.Errorf("the response says %#x", code)
	}

	tables := make([]byte, 0x1000)
	if err := m.Memory().Read(0xe0000, tables); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(tables, []byte("TPM2"))
	if at < 0 {
		t.Fatal("no TPM2 table")
	}
	if area := binary.LittleEndian.Uint64(tables[at+40:]); area != crb.Base+crb.ControlArea {
		t.Errorf("the control area is at %#x", area)
	}
	if _, err := m.Save(); !errors.Is(err, ErrShape) {
		t.Errorf("Save of a machine with a TPM: %v", err)
	}
}
