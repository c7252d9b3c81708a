package vmm

import (
	"github.com/qenex/qenex-kernel/device"
	"github.com/qenex/qenex-kernel/tpm/crb"
)

// addTPM gives the guest a TPM, if it is to have one.
func (m *Machine) addTPM() error {
	if m.cfg.TPM == nil {
		return nil
	}
	m.tpm = crb.New(m.cfg.TPM, crb.Base)
	return m.MMIO.Register(device.Registration{Name: "tpm", Base: crb.Base, Size: crb.Size, IRQ: -1, Handler: m.tpm})
}

// stopTPM waits for the guest's last command, for good. No vCPU may run any more.
func (m *Machine) stopTPM() {
	if m.tpm != nil {
		m.tpm.Close()
	}
}
