package memmap

import (
	"fmt"

	"github.com/qenex/qenex-kernel/kvm"
)

// Slots shows the RAM to a VM, one KVM memory slot a region, numbered from 0. flags are kvm.MemLogDirtyPages
// or 0. The memory must stay open as long as the VM can run.
func (m *Memory) Slots(vm *kvm.VM, flags uint32) error {
	for i, r := range m.regions {
		if err := vm.SetMemory(uint32(i), flags, r.GPA, r.host); err != nil {
			return fmt.Errorf("give guest memory to the VM: %w", err)
		}
	}
	return nil
}
