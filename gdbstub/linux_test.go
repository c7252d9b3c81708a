package gdbstub

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/memmap"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/vmm"
)

// bootLimit is far more than the guest takes: a hang ends the test, slowness does not.
const bootLimit = 3 * time.Minute

// TestLinux debugs a Linux kernel by its symbols, from before its first instruction, and then lets it run on.
func TestLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	program, err := exec.LookPath("gdb")
	if err != nil {
		t.Skipf("NOT TESTED: %v; install the package gdb", err)
	}
	kvmtest.NoLeaks(t)
	can, err := probe.Debug(kvmtest.Open(t))
	must(t, err)
	if !can.Execute || !can.Breakpoint {
		t.Skipf("NOT TESTED: this KVM has not got all that is needed: %+v", can)
	}
	kernel, err := artefact.Path(artefact.LeanELF)
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	initrd, err := artefact.Path(artefact.InitTiny)
	must(t, err)
	m, err := vmm.New(vmm.Config{
		Kernel: kernel, Initrds: []string{initrd}, Cmdline: "console=ttyS0 panic=-1 quiet", Memory: 64 * memmap.MiB, CPUs: 1, Hints: true, Heal: true, Console: os.Stderr,
	})
	must(t, err)
	defer func() { must(t, m.Close()) }()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, m, func(err error) { t.Errorf("session: %v", err) }) }()
	c := exec.CommandContext(ctx, program, "-nx", "-batch", "-ex", "target remote "+l.Addr().String(),
		"-ex", "hbreak start_kernel", "-ex", "continue", "-ex", "x/s (char*)&linux_banner", "-ex", "p/x $cs", "-ex", "delete",
		"-ex", "break setup_arch", "-ex", "continue", "-ex", "info symbol $pc", "-ex", "stepi", "-ex", "delete", "-ex", "detach", filepath.Clean(kernel))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("gdb: %v", err)
	}
	contains(t, string(out), "Breakpoint 1, 0x", " in start_kernel ()", `"Linux version `, "$1 = 0x10\n", "Breakpoint 2, 0x", "setup_arch in section")
	if st := m.VCPUs()[0].State(); st != vcpu.Running {
		t.Errorf("after detach the vCPU is %v", st)
	}
	must(t, m.Stop(ctx))
	cancel()
	must(t, <-served)
	if strings.Contains(string(out), "Cannot") {
		t.Errorf("%s", out)
	}
}
