package bench

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// job is one guest to start.
type job struct {
	kernel, initrd, cmdline string // initrd and cmdline are "" for a test guest
	memory                  uint64 // bytes of guest RAM, whole MiB

	disk  string // path of a raw image; "" is no disk
	net   bool   // a user-mode network that reaches the host's loopback
	vsock string // path of the host's side; "" is no vsock
}

// fatal is a text that says the guest is lost, and what that means.
type fatal struct{ text, means string }

// peer is a monitor to compare.
type peer struct {
	name    string
	path    string
	missing string  // why it cannot be run, "" when it can
	fatal   []fatal // what it prints when the guest is lost but the process stays
	args    func(job) []string
	devices func(job) []string // further arguments for the job's devices; nil if it has none that are measured
}

// Names of the peers, in the order of the table.
const (
	qenexName   = "qenex"
	microvmName = "qemu-microvm"
	pcName      = "qemu-pc"
	gokvmName   = "gokvm"
)

// PeerNames are the values of Options.Peers.
var PeerNames = []string{qenexName, microvmName, pcName, gokvmName, nativeName, systrapName, ptraceName, linuxName}

const (
	// microvmMachine is what QEMU's own documentation advises for microvm: no option ROMs, MP table, only the devices needed.
	microvmMachine = "microvm,acpi=off,x-option-roms=off"
	// softCPU is for a software KVM: without its changes QEMU gives up, or the guest needs what that KVM lacks.
	softCPU = "host,-arch-capabilities,-cx16"
)

var kvmError = []fatal{
	{"KVM internal error. Suberror: 1", "KVM cannot emulate one of the guest's instructions, and QEMU stops the guest"},
	{"KVM internal error", "KVM internal error, and QEMU stops the guest"},
}

func (o *Options) peers(soft bool) ([]peer, error) {
	for _, name := range o.Peers {
		if !slices.Contains(PeerNames, name) {
			return nil, fmt.Errorf("no peer is called %q; there are %s", name, strings.Join(PeerNames, ", "))
		}
	}
	cpu := "host"
	if soft {
		cpu = softCPU
	}
	microvm := func(j job) []string { return qemuArgs(microvmMachine, cpu, j) }
	pc := func(j job) []string { return qemuArgs("pc", cpu, j) }
	gokvmError := []fatal{
		{"EXITINTERNALERROR", "KVM cannot emulate one of the guest's instructions, and gokvm ends the vCPU"},
		{"EXITMMIO", "gokvm ends the vCPU at an MMIO exit"},
		{"CPU 0 exits", "gokvm ended the vCPU"},
	}
	all := []peer{
		find(peer{name: qenexName, args: qenexArgs, devices: qenexDevices}, o.Qenex),
		find(peer{name: microvmName, args: microvm, devices: qemuDevices, fatal: kvmError}, o.QEMU),
		find(peer{name: pcName, args: pc, fatal: kvmError}, o.QEMU),
		find(peer{name: gokvmName, args: gokvmArgs, fatal: gokvmError}, o.Gokvm),
	}
	if len(o.Peers) > 0 {
		all = slices.DeleteFunc(all, func(p peer) bool { return !slices.Contains(o.Peers, p.name) })
	}
	return all, nil
}

func find(p peer, program string) peer {
	path, err := exec.LookPath(program)
	if err != nil {
		p.missing = fmt.Sprintf("not run: no %s here", program)
	}
	p.path = path
	return p
}

func qenexArgs(j job) []string {
	args := []string{"run", "--kernel", j.kernel, "--mem", fmt.Sprintf("%dM", j.memory>>20), "--cpus", "1", "--tables", "mp", "--raw-cmdline", "--cmdline", j.cmdline}
	if j.initrd != "" {
		args = append(args, "--initrd", j.initrd)
	}
	return args
}

func qemuArgs(machine, cpu string, j job) []string {
	args := []string{
		"-M", machine, "-accel", "kvm", "-cpu", cpu, "-smp", "1", "-m", fmt.Sprintf("%dM", j.memory>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", j.kernel,
	}
	if j.initrd != "" {
		args = append(args, "-initrd", j.initrd)
	}
	if j.cmdline != "" {
		args = append(args, "-append", j.cmdline)
	}
	return args
}

func gokvmArgs(j job) []string {
	args := []string{"boot", "-k", j.kernel, "-m", fmt.Sprintf("%dM", j.memory>>20), "-c", "1"}
	if j.initrd != "" {
		args = append(args, "-i", j.initrd)
	}
	if j.cmdline != "" {
		args = append(args, "-p", j.cmdline)
	}
	return args
}

func qenexDevices(j job) (args []string) {
	if j.disk != "" {
		args = append(args, "--disk", j.disk+",format=raw")
	}
	if j.net {
		args = append(args, "--net", "user+host-loopback")
	}
	if j.vsock != "" {
		args = append(args, "--vsock", j.vsock)
	}
	return args
}

func qemuDevices(j job) (args []string) {
	if j.disk != "" {
		args = append(args, "-drive", "file="+j.disk+",format=raw,if=none,id=d,cache=writeback", "-device", "virtio-blk-device,drive=d")
	}
	if j.net {
		args = append(args, "-netdev", "user,id=n", "-device", "virtio-net-device,netdev=n")
	}
	return args
}
