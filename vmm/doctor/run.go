package doctor

import (
	"context"
	"os/exec"

	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// place says where to look; tests point it at made-up hosts.
type place struct {
	kvm, dev, proc, sys string
	lookPath            func(string) (string, error)
}

func thisHost() place {
	return place{kvm: "/dev/kvm", dev: "/dev", proc: "/proc", sys: "/sys", lookPath: exec.LookPath}
}

// Run examines this host. What is missing is in the Report, not an error; an error says
// that the examination itself was cut short, by ctx.
func Run(ctx context.Context) (Report, error) { return run(ctx, thisHost()) }

func run(ctx context.Context, p place) (Report, error) {
	r := Report{Host: p.host()}
	cpu := p.cpuFlags()
	sys, err := p.openKVM(&r.KVM, cpu)
	if err != nil {
		r.Capabilities = capabilities(nil, false)
		r.conclude(nil, nil)
		return r, ctx.Err()
	}
	defer sys.Close()
	_, guestErr := probe.Quick(sys)
	var measureErr error
	if guestErr == nil {
		r.Measured = new(probe.Result)
		*r.Measured, measureErr = probe.Measure(ctx, sys)
		r.examineNative(p.kvm)
	}
	if err := ctx.Err(); err != nil {
		return r, err
	}
	r.KVM.Kind, r.KVM.Module = p.kind(cpu, r.Measured)
	r.Capabilities = capabilities(sys, r.emulated())
	r.conclude(guestErr, measureErr)
	return r, nil
}

// examineNative runs the core of native guests.
func (r *Report) examineNative(path string) {
	f, err := guestkernel.SelfTest(guestkernel.Options{KVM: path})
	if err != nil {
		r.NativeError = err.Error()
		return
	}
	r.Native = &f
}

// emulated says that guest kernel code is not run by the CPU here.
func (r *Report) emulated() bool { return r.Measured != nil && r.Measured.SoftwareKVM }

// openKVM opens the device and notes what it is. The error is in k too.
func (p place) openKVM(k *KVM, cpu map[string]bool) (*kvm.System, error) {
	k.Path, k.Nested = p.kvm, cpu["hypervisor"]
	k.Kind, k.Module = p.kind(cpu, nil)
	sys, err := kvm.OpenPath(p.kvm)
	k.Present, k.Permission = presence(err)
	if err != nil {
		k.Error = err.Error()
		k.Fix = p.fixKVM(err, cpu)
		return nil, err
	}
	k.Usable, k.API = true, kvm.APIVersion
	return sys, nil
}
