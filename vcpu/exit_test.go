package vcpu

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
)

// runArea makes a kvm_run area of two pages with an exit's reason and data.
func runArea(reason uint32, union ...byte) []byte {
	run := make([]byte, 8192)
	binary.LittleEndian.PutUint32(run[kvm.RunExitReason:], reason)
	copy(run[kvm.RunUnion:kvm.RunMinSize], union)
	return run
}

func TestDecode(t *testing.T) {
	io := runArea(kvm.ExitIO, 1, 2, 0xF8, 0x03, 3, 0, 0, 0, 0x00, 0x10)
	copy(io[0x1000:], "abcdef")
	x, err := Decode(io)
	if err != nil || !x.Write || x.Size != 2 || x.Addr != 0x3F8 || x.Count != 3 || string(x.Data) != "abcdef" {
		t.Errorf("port I/O: %+v, %v", x, err)
	}
	x, err = Decode(runArea(kvm.ExitMMIO, 0, 0, 0, 0xD0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 4, 0, 0, 0, 1))
	if err != nil || !x.Write || x.Addr != 0xD0000000 || len(x.Data) != 4 || x.Data[3] != 4 {
		t.Errorf("MMIO: %+v, %v", x, err)
	}
	x, err = Decode(runArea(kvm.ExitInternalError, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0x0F, 0x0B))
	if err != nil || x.Suberror != InternalEmulation || len(x.Insn) != 2 || x.Insn[1] != 0x0B || len(x.Info) != 4 {
		t.Errorf("emulation failure: %+v, %v", x, err)
	}
	for name, run := range map[string][]byte{
		"short area":       make([]byte, 64),
		"I/O of 3 bytes":   runArea(kvm.ExitIO, 1, 3, 0, 0, 1),
		"I/O data outside": runArea(kvm.ExitIO, 1, 1, 0, 0, 1, 0, 0, 0, 0x00, 0x20),
		"I/O count huge":   runArea(kvm.ExitIO, 1, 4, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x10),
		"I/O offset wraps": runArea(kvm.ExitIO, 1, 1, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255),
		"MMIO of 0 bytes":  runArea(kvm.ExitMMIO),
		"MMIO of 9 bytes":  runArea(kvm.ExitMMIO, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9),
	} {
		if _, err := Decode(run); !errors.Is(err, ErrExit) {
			t.Errorf("%s: error %v, want ErrExit", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for reason := range uint32(40) {
		f.Add(reason, []byte{1, 4, 0xF8, 3, 1, 0, 0, 0, 0, 0x10})
	}
	f.Fuzz(func(t *testing.T, reason uint32, union []byte) {
		run := runArea(reason, union...)
		x, err := Decode(run)
		if err != nil {
			return
		}
		if len(x.Data) > len(run) || len(x.Insn) > 15 || len(x.Info) > 16 {
			t.Fatalf("%+v", x)
		}
		if (x.Reason == kvm.ExitIO || x.Reason == kvm.ExitMMIO) && len(x.Data) != x.Size*x.Count {
			t.Fatalf("%d bytes of data for %d elements of %d", len(x.Data), x.Count, x.Size)
		}
		for i := range x.Data {
			x.Data[i]++ // must be writable memory of the area
		}
		if ReasonName(x.Reason) == "" {
			t.Fatal("reason without a name")
		}
	})
}
