package vcpu

import (
	"errors"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu/complete"
)

// paged is guest memory with a 4-level table at 0x1000 that maps, by 4 KiB pages: 0x400000 to 0x8000 (user,
// writable), 0x401000 to 0x9000 (user, read-only), 0x402000 to 0xA000 (supervisor, no-execute), and
// 0x600000 by a 2 MiB page to 0.
func paged(t *testing.T) (*memmap.Memory, *kvm.Sregs) {
	t.Helper()
	m, err := memmap.New(4 * memmap.MiB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	for gpa, entry := range map[uint64]uint64{
		0x1000:         0x2000 | pteP | pteW | pteU,
		0x2000:         0x3000 | pteP | pteW | pteU,
		0x3000 + 2*8:   0x4000 | pteP | pteW | pteU,
		0x3000 + 3*8:   0 | pteP | pteW | ptePS,
		0x4000:         0x8000 | pteP | pteW | pteU,
		0x4000 + 1*8:   0x9000 | pteP | pteU,
		0x4000 + 2*8:   0xA000 | pteP | pteW | pteNX,
		0x4000 + 511*8: 0xFFFFF000 | pteP | pteW, // into the hole
	} {
		if err := m.PutUint64(gpa, entry); err != nil {
			t.Fatal(err)
		}
	}
	return m, &kvm.Sregs{CR0: cr0PG | cr0WP | 1, CR3: 0x1000, CR4: 1 << 5, EFER: eferLMA | eferNXE | 1<<8}
}

func TestTranslate(t *testing.T) {
	m, s := paged(t)
	for _, tt := range []struct {
		name   string
		va     uint64
		access uint32
		cpl    uint8
		cr4    uint64
		gpa    uint64
		fault  bool
		code   uint32
	}{
		{"user read", 0x400123, 0, 3, 0, 0x8123, false, 0},
		{"user write", 0x400123, pfWrite, 3, 0, 0x8123, false, 0},
		{"user write to read-only", 0x401000, pfWrite, 3, 0, 0, true, pfPresent | pfWrite | pfUser},
		{"kernel write to read-only", 0x401000, pfWrite, 0, 0, 0, true, pfPresent | pfWrite},
		{"user read of supervisor page", 0x402000, 0, 3, 0, 0, true, pfPresent | pfUser},
		{"fetch from no-execute", 0x402000, pfFetch, 0, 0, 0, true, pfPresent | pfFetch},
		{"not present", 0x405000, 0, 0, 0, 0, true, 0},
		{"not present, write by user", 0x405000, pfWrite, 3, 0, 0, true, pfWrite | pfUser},
		{"large page", 0x6ABCDE, 0, 0, 0, 0xABCDE, false, 0},
		{"SMAP", 0x400000, 0, 0, cr4SMAP, 0, true, pfPresent},
		{"SMEP", 0x400000, pfFetch, 0, cr4SMEP, 0, true, pfPresent | pfFetch},
	} {
		sregs := *s
		sregs.CR4 |= tt.cr4
		l := &linear{mem: m, sregs: &sregs, cpl: tt.cpl}
		gpa, err := l.translate(tt.va, tt.access)
		f, isFault := errors.AsType[*complete.Fault](err)
		if isFault != tt.fault || (err != nil) != tt.fault || gpa != tt.gpa {
			t.Errorf("%s: gpa %#x, error %v; want %#x, fault %v", tt.name, gpa, err, tt.gpa, tt.fault)
		} else if tt.fault && (f.Code != tt.code || f.Addr != tt.va) {
			t.Errorf("%s: code %#x at %#x, want %#x", tt.name, f.Code, f.Addr, tt.code)
		}
	}
	if e, _ := m.Uint64(0x4000); e&(pteA|pteD) != pteA|pteD {
		t.Errorf("entry %#x after a write, want accessed and dirty", e)
	}
	if e, _ := m.Uint64(0x4000 + 8); e&pteD != 0 {
		t.Errorf("entry %#x of a refused write is dirty", e)
	}
}

func TestLinearAccess(t *testing.T) {
	m, s := paged(t)
	l := &linear{mem: m, sregs: s}
	if err := l.Write(0x400FFE, []byte("abcd")); err == nil {
		t.Error("write across into a read-only page succeeded")
	}
	if b, _ := m.Uint8(0x8FFE); b != 0 {
		t.Error("the first half of a refused write was done")
	}
	s.CR0 &^= cr0WP
	if err := l.Write(0x400FFE, []byte("abcd")); err != nil {
		t.Error(err)
	}
	p := make([]byte, 4)
	if err := l.Read(0x400FFE, p); err != nil || string(p) != "abcd" {
		t.Errorf("read back %q, %v", p, err)
	}
	if _, err := l.translate(0x8000_0000_0000_0000, 0); !errors.Is(err, errUnmapped) {
		t.Errorf("non-canonical address: %v", err)
	}
	if err := l.Read(0x5FF000, p); !errors.Is(err, memmap.ErrBounds) {
		t.Errorf("page in the hole: %v, want ErrBounds", err)
	}
	s.CR3 = 1 << 40
	if err := l.Read(0x400000, p); !errors.Is(err, memmap.ErrBounds) {
		t.Errorf("page tables outside memory: %v, want ErrBounds", err)
	}
	old, repl := []byte{0, 0, 0, 0, 0, 0, 0, 0}, []byte{1, 2, 3, 4, 5, 6, 7, 8}
	s.CR3 = 0x1000
	if ok, err := l.CompareAndSwap(0x400010, old, repl); !ok || err != nil {
		t.Errorf("compare and swap: %v, %v", ok, err)
	}
	if ok, err := l.CompareAndSwap(0x400010, old, repl); ok || err != nil || old[0] != 1 {
		t.Errorf("second compare and swap: %v, %v, old % x", ok, err, old)
	}
}

// FuzzTranslate walks page tables made of random bytes: no access may leave guest memory or panic.
func FuzzTranslate(f *testing.F) {
	f.Add(uint64(0x400000), uint64(0x1000), uint64(0x2007), uint32(pfWrite), true)
	f.Add(^uint64(0), ^uint64(0), ^uint64(0), uint32(0), false)
	m, err := memmap.New(memmap.MinSize)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.Close() })
	f.Fuzz(func(t *testing.T, va, cr3, entry uint64, access uint32, la57 bool) {
		for i := uint64(0); i < memmap.MinSize; i += 4096 + 8 {
			if err := m.PutUint64(i&^7, entry+i); err != nil {
				t.Fatal(err)
			}
		}
		s := &kvm.Sregs{CR0: cr0PG, CR3: cr3, EFER: eferLMA}
		if la57 {
			s.CR4 |= cr4LA57
		}
		l := &linear{mem: m, sregs: s}
		p := make([]byte, 32)
		_ = l.Read(va, p)
		_ = l.Write(va, p)
		_ = fetchCode(l, va)
		_, _ = l.translate(va, access&(pfWrite|pfFetch))
	})
}
