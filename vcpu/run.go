package vcpu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
)

// loop enters the guest again and again until the vCPU is stopped.
func (v *VCPU) loop() {
	for {
		// The order matters: a kick that comes between the two lines finds its
		// immediate_exit still set; one before them finds its request still set.
		v.kvm.ClearExitRequest()
		if v.request.Load() != 0 {
			v.request.Store(0)
			if !v.obey() {
				return
			}
			continue
		}
		if f := v.enter(); f != nil {
			if v.cfg.OnFault != nil && v.cfg.OnFault(v, f) {
				continue
			}
			v.faulted(f)
			return
		}
	}
}

// enter runs the guest to its next exit and handles that.
func (v *VCPU) enter() *Fault {
	err := v.kvm.Run()
	v.settling = false
	switch {
	case err == nil:
		return v.handle()
	case errors.Is(err, unix.EINTR):
		v.counts.interrupts.Add(1)
		return nil
	case errors.Is(err, unix.EAGAIN):
		return nil // a vCPU that waited for INIT or SIPI got one
	default:
		return v.newFault(FaultInternal, Exit{}, err)
	}
}

// settle makes KVM take the answer of the last exit without running the guest, so that the
// vCPU's state is whole. A string instruction may need several rounds.
func (v *VCPU) settle() *Fault {
	for v.settling {
		v.kvm.RequestExit()
		if f := v.enter(); f != nil {
			return f
		}
	}
	return nil
}

// handle answers the exit in the kvm_run area.
func (v *VCPU) handle() *Fault {
	run := v.kvm.RunArea()
	x, err := Decode(run)
	v.counts.exit(x.Reason)
	if err != nil {
		return v.newFault(FaultInternal, x, err)
	}
	switch x.Reason {
	case kvm.ExitIO:
		v.settling = true
		for i := 0; i < len(x.Data); i += x.Size {
			access(v.cfg.Ports, x.Addr, x.Data[i:i+x.Size], x.Write)
		}
	case kvm.ExitMMIO:
		v.settling = true
		access(v.cfg.MMIO, x.Addr, x.Data, x.Write)
	case kvm.ExitWRMSR, kvm.ExitRDMSR:
		v.settling = true
		return v.msr(x, run)
	case kvm.ExitDebug:
		return v.debugExit(x)
	case kvm.ExitInternalError:
		if x.Suberror == InternalEmulation {
			if v.emulatedBreakpoint(x) {
				return nil
			}
			return v.complete(x)
		}
		return v.newFault(FaultInternal, x, nil)
	case kvm.ExitShutdown:
		return v.newFault(FaultTripleFault, x, nil)
	case kvm.ExitFailEntry:
		return v.newFault(FaultEntry, x, nil)
	case kvm.ExitIntr, kvm.ExitIRQWindow, kvm.ExitHLT:
		// Nothing to answer: KVM halts and injects by itself with its own interrupt chips.
	default:
		return v.newFault(FaultInternal, x, fmt.Errorf("exit %s is not handled", ReasonName(x.Reason)))
	}
	if v.cfg.Shim != nil {
		v.cfg.Shim.retry(v)
	}
	return nil
}

func access(bus Bus, addr uint64, p []byte, write bool) {
	if write {
		bus.Write(addr, p)
	} else {
		bus.Read(addr, p)
	}
}

// msr answers an MSR access that KVM handed to us: LSTAR, which the SYSCALL shim watches; anything else is #GP.
func (v *VCPU) msr(x Exit, run []byte) *Fault {
	if v.cfg.Shim == nil || !x.Write || x.MSR != kvm.MSRLSTAR {
		answerMSR(run, 0, true)
		return nil
	}
	refused, err := v.kvm.SetMSRs([]kvm.MSREntry{{Index: x.MSR, Data: x.MSRValue}})
	if err != nil {
		return v.newFault(FaultInternal, x, fmt.Errorf("write LSTAR for the guest: %w", err))
	}
	answerMSR(run, x.MSRValue, len(refused) > 0)
	if len(refused) == 0 {
		v.cfg.Shim.arm(v, x.MSRValue)
	}
	return nil
}
