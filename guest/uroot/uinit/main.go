// Command uinit is the job of the u-root guest: u-root's init starts it once /proc, /sys and /dev are there. It runs what
// the kernel command line asks for and ends the machine, by the same protocol as the busybox guest (guest/init/rc):
//
//	qenex.cmd="..."     shell commands to run; spaces need the quotes; no double quote inside. Default: uname -a
//	qenex.action=WHAT   what follows: poweroff (default), direct (poweroff through QENEX's port, without the kernel's last
//	                    words), reboot, halt, panic, or shell (an interactive one, then poweroff)
//
// It runs as a guest's user space, never on the host.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Ports of a QENEX machine, and what is written to them.
const (
	milestones   = 0x5f0 // boot milestones
	userSpace    = 1
	sleepControl = 0x600       // ACPI sleep control register
	enableS5     = 1<<5 | 5<<2 // SLP_EN, SLP_TYP (ACPI 6.5, 4.8.3.7)
)

func main() {
	if err := putPort(milestones, userSpace); err != nil {
		fmt.Fprintln(os.Stderr, "QENEX: no boot milestone:", err)
	}
	fmt.Println("QENEX: user space")
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Fprintln(os.Stderr, "QENEX: no kernel command line, running the default job:", err)
	}
	j := parse(string(line))
	if status := run("gosh", "-c", j.command); status != 0 {
		fmt.Fprintf(os.Stderr, "QENEX: the guest's command failed with exit status %d\n", status)
	}
	if j.action == "shell" {
		run("gosh")
	}
	end(j.action)
}

// run runs a program on the console and returns its exit status, as a shell would give it.
func run(name string, args ...string) int {
	c := exec.Command(name, args...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	default:
		fmt.Fprintln(os.Stderr, "QENEX:", err)
		return 127
	}
}

// end ends the machine when the console has sent everything. It returns only if the kernel refuses.
func end(action string) {
	unix.IoctlSetInt(unix.Stdout, unix.TCSBRK, 1) // tcdrain
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	switch action {
	case "reboot":
		how = unix.LINUX_REBOOT_CMD_RESTART
	case "halt":
		how = unix.LINUX_REBOOT_CMD_HALT
	case "panic":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "QENEX: this kernel cannot be made to panic:", err)
		}
	case "direct":
		sleepDirectly()
	default:
		if _, err := os.Stat("/sys/firmware/acpi"); err != nil {
			sleepDirectly()
		}
	}
	fmt.Fprintln(os.Stderr, "QENEX: the kernel refused to end the machine:", unix.Reboot(how))
}

// sleepDirectly powers off by writing QENEX's sleep control register. It returns where there is none.
func sleepDirectly() {
	if err := putPort(sleepControl, enableS5); err != nil {
		fmt.Fprintln(os.Stderr, "QENEX: cannot power off through a port:", err)
	}
}

// putPort writes one byte to an I/O port.
func putPort(port int64, value byte) error {
	f, err := os.OpenFile("/dev/port", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{value}, port)
	return err
}
