package doctor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// presence reads from OpenPath's error whether there is a device, and whether it may be opened.
func presence(err error) (present, permission bool) {
	switch {
	case errors.Is(err, kvm.ErrNoDevice):
		return false, false
	case errors.Is(err, kvm.ErrPermission):
		return true, false
	}
	return true, true
}

// vendors are the kernel modules that make KVM work, with the CPU flag that each needs.
var vendors = []struct {
	module, flag string
	kind         Kind
}{
	{"kvm_intel", "vmx", KindVMX},
	{"kvm_amd", "svm", KindSVM},
	{"kvm_pvm", "", KindSoftware},
}

// kind tells the kind of KVM by its module, the CPU and what was measured (nil if nothing was). Kernels with several
// of the modules built in show all of them.
func (p place) kind(cpu map[string]bool, measured *probe.Result) (Kind, string) {
	for _, v := range vendors {
		if _, err := os.Stat(filepath.Join(p.sys, "module", v.module)); err != nil {
			continue
		}
		if v.flag != "" && !cpu[v.flag] {
			continue
		}
		if measured != nil && measured.SoftwareKVM != (v.kind == KindSoftware) {
			continue
		}
		return v.kind, v.module
	}
	if measured != nil && measured.SoftwareKVM {
		return KindSoftware, ""
	}
	return KindUnknown, ""
}

// fixKVM says what to do about a KVM device that cannot be opened.
func (p place) fixKVM(err error, cpu map[string]bool) string {
	switch {
	case errors.Is(err, kvm.ErrPermission):
		return "sudo usermod -aG kvm $USER, then log in again; in a container pass --device /dev/kvm"
	case !errors.Is(err, kvm.ErrNoDevice):
		return "name the real KVM device, usually /dev/kvm, and use a Linux kernel with KVM"
	case cpu["vmx"]:
		return "sudo modprobe kvm_intel"
	case cpu["svm"]:
		return "sudo modprobe kvm_amd"
	case cpu["hypervisor"]:
		return "this host is a VM without nested virtualization: have its provider enable that, or use a bare-metal host"
	}
	return "enable VT-x or AMD-V (SVM) in the firmware settings"
}

// cpuFlags returns the first CPU's flags.
func (p place) cpuFlags() map[string]bool {
	flags := make(map[string]bool)
	text, err := os.ReadFile(filepath.Join(p.proc, "cpuinfo"))
	if err != nil {
		return flags
	}
	for line := range bytes.Lines(text) {
		if key, value, found := strings.Cut(string(line), ":"); found && strings.TrimSpace(key) == "flags" {
			for _, f := range strings.Fields(value) {
				flags[f] = true
			}
			break
		}
	}
	return flags
}
