package kvm

import (
	"testing"
	"unsafe"
)

// TestSyncArea: offsets of linux/kvm.h, x86.
func TestSyncArea(t *testing.T) {
	var s SyncArea
	if unsafe.Offsetof(s.Regs) != 16 || unsafe.Offsetof(s.Sregs) != 16+144 || unsafe.Offsetof(s.Events) != 16+144+312 || unsafe.Sizeof(s) != 16+144+312+64 {
		t.Errorf("offsets %d %d, size %d", unsafe.Offsetof(s.Regs), unsafe.Offsetof(s.Sregs), unsafe.Sizeof(s))
	}
}
