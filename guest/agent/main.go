// Command agent is the first program of a QENEX guest that people work in, and the one that answers its host. It makes a Linux
// user space of what the kernel command line says, and then serves commands over vsock (package serve).
//
// Kernel command line:
//
//	qenex.root=/dev/vda       the root file system; without it, the initramfs is the root
//	qenex.rootfs=ext4         its type; 9p takes qenex.root as the tag of a share
//	qenex.overlay=tmpfs       leave it as it is, and keep what is written in memory
//	qenex.share=TAG:/mnt      mount a directory of the host (9p), read-only with :ro behind it; may come several times
//	qenex.hold                do not start the root's own init: the agent stays the init
//	qenex.ip=WHAT             ADDRESS/BITS,GATEWAY,DNS or dhcp (default) or off
//	qenex.agent=1024          the vsock port, or off
//
// It is a process 1, whose end is the end of the guest: so errors are reported and never fatal, and panics are caught. Where the
// root has an init of its own, that takes process 1, and the agent runs beside it.
//
// It runs on kernels that are emulated, an instruction a microsecond: few goroutines, few system calls, no package net.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/qenex/qenex-kernel/guest/agent/serve"
)

// beside is the argument of an agent that is not process 1; the next is the fault of the boot.
const beside = "beside"

func main() {
	debug.SetGCPercent(-1) // a collection costs more than most commands allocate
	debug.SetMemoryLimit(48 << 20)
	if len(os.Args) > 1 && os.Args[1] == beside {
		run(readCommandLine(), strings.Join(os.Args[2:], " "))
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "agent: this program is the init of a QENEX guest, and of use nowhere else")
		os.Exit(2)
	}
	fault := ""
	c, err := boot()
	if err != nil {
		fault = err.Error()
		report("boot", err)
	}
	run(c, fault)
}

// report tells the console of an error.
func report(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "QENEX: agent: %s: %v\n", what, err)
	}
}

// protected runs f and reports its panic instead of ending the guest.
func protected(what string, f func() error) {
	defer func() {
		if p := recover(); p != nil {
			report(what, fmt.Errorf("this is a bug: %v", p))
		}
	}()
	report(what, f())
}

// run serves until the machine ends. It does not return.
func run(c commandLine, fault string) {
	s := &system{line: c, fault: fault, network: newNetwork(c.ip), childEnded: make(chan struct{}, 1)}
	server := &serve.Server{System: s, Children: &s.children, Etc: "/etc", Env: hints(c)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	if os.Getpid() == 1 {
		fmt.Println("QENEX: user space")
		putPort(milestones, userSpace)
		go protected("signals", s.takeSignals)
	}
	go protected("network", s.network.boot)
	if c.agentPort != 0 {
		go protected("vsock", func() error { return listen(c.agentPort, server, s) })
	}
	protected("power button", s.watchPowerButton)
	for range ended {
		protected("children", func() error {
			s.children.Reap()
			select {
			case s.childEnded <- struct{}{}:
			default:
			}
			return nil
		})
	}
}

// hints keep programs from instructions and registers that an emulated kernel does not take care of: with noxsave, Linux does not
// save the upper halves of vector registers between processes, and programs that ask the CPU use them all the same.
func hints(c commandLine) []string {
	if !c.noXSave {
		return nil
	}
	return []string{goHint, "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX2_Usable,-AVX_Fast_Unaligned_Load"}
}

const goHint = "GODEBUG=cpu.avx=off,cpu.avx2=off,cpu.avx512f=off"

// withHints starts this program once more with the hint for itself, which Go's runtime takes only from the environment.
func withHints(c commandLine) error {
	if name, value, _ := strings.Cut(goHint, "="); c.noXSave && os.Getenv(name) != value {
		env := append(os.Environ(), goHint)
		return &os.PathError{Op: "exec", Path: self, Err: syscall.Exec(self, os.Args, env)}
	}
	return nil
}

// self is this program, wherever the root is by now.
const self = "/proc/self/exe"
