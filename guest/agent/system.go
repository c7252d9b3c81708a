package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent/wire"
	"github.com/qenex/qenex-kernel/guest/agent/serve"
)

// system is this guest, for package serve.
type system struct {
	line       commandLine
	fault      string // of the boot
	network    *network
	children   serve.Children
	childEnded chan struct{} // something has been reaped
	once       sync.Once     // there is one end
}

// Info implements serve.System.
func (s *system) Info() wire.InfoMessage {
	m := wire.InfoMessage{Version: wire.Version, PID: uint32(os.Getpid()), Fault: s.fault}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		m.Uptime = uint64(up.Nano())
	}
	return m
}

// SetTime implements serve.System.
func (s *system) SetTime(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

// Requests to /dev/urandom (linux/random.h).
const (
	addToEntropyCount = 0x40045201 // RNDADDTOENTCNT
	reseedCRNG        = 0x5207     // RNDRESEEDCRNG
)

// Reseed implements serve.System: the seed is mixed into the kernel's pool, counted, and used from now on.
func (s *system) Reseed(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(seed); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), addToEntropyCount, 8*len(seed)); err != nil {
		return os.NewSyscallError("RNDADDTOENTCNT", err)
	}
	return os.NewSyscallError("RNDRESEEDCRNG", unix.IoctlSetInt(int(f.Fd()), reseedCRNG, 0))
}

// Network implements serve.System.
func (s *system) Network(want wire.NetworkMessage) (wire.NetworkMessage, error) {
	return s.network.configure(want)
}

// Shutdown implements serve.System: it begins the end of the machine, once.
func (s *system) Shutdown(reboot bool, grace time.Duration) {
	s.once.Do(func() { go protected("shutdown", func() error { return s.end(reboot, grace) }) })
}

// end ends the machine, through the root's own init if that is process 1. It returns only with an error.
func (s *system) end(reboot bool, grace time.Duration) error {
	if os.Getpid() != 1 {
		if err := s.askInit(reboot); err == nil {
			return nil
		} else {
			report("shutdown through init", err)
		}
	}
	unix.Kill(-1, unix.SIGTERM)
	s.awaitChildren(grace)
	unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "") // what fails here was synced
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	} else if _, err := os.Stat("/sys/firmware/acpi"); err != nil {
		putPort(sleepControl, enableS5) // without ACPI the kernel would only stop
	}
	return fmt.Errorf("the kernel refused to end the machine: %w", unix.Reboot(how))
}

// awaitChildren waits until process 1 has no children, or for the time of grace.
func (s *system) awaitChildren(grace time.Duration) {
	over := time.After(grace)
	for s.children.Reap() {
		select {
		case <-s.childEnded:
		case <-over:
			return
		}
	}
}

// askInit has the root's own init end the machine.
func (s *system) askInit(reboot bool) error {
	program := "/sbin/poweroff"
	if reboot {
		program = "/sbin/reboot"
	}
	_, status, err := s.children.Start(program, []string{program}, &syscall.ProcAttr{Dir: "/", Files: []uintptr{0, 1, 2}, Env: os.Environ()})
	if err != nil {
		return err
	}
	if st := <-status; st.ExitStatus() != 0 {
		return fmt.Errorf("%s failed with exit status %d", program, st.ExitStatus())
	}
	return nil
}

// takeSignals is what an init does on signals: those of busybox's poweroff, halt and reboot, and of control-alt-delete, end the
// machine; from others, whose default would be the end of this process, nothing happens.
func (s *system) takeSignals() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS,
		syscall.SIGFPE, syscall.SIGUSR1, syscall.SIGSEGV, syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGSYS)
	for sig := range signals {
		switch sig {
		case syscall.SIGUSR1, syscall.SIGUSR2:
			s.Shutdown(false, signalGrace)
		case syscall.SIGTERM, syscall.SIGINT:
			s.Shutdown(true, signalGrace)
		}
	}
	return nil
}

// keyPower is KEY_POWER of linux/input-event-codes.h.
const keyPower = 116

// watchPowerButton shuts the guest down when its power button is pressed.
func (s *system) watchPowerButton() error {
	inputs, err := os.ReadDir("/sys/class/input")
	if err != nil {
		return nil // a kernel without input devices
	}
	for _, i := range inputs {
		name, err := os.ReadFile("/sys/class/input/" + i.Name() + "/device/name")
		if err != nil || strings.TrimSpace(string(name)) != "Power Button" || !strings.HasPrefix(i.Name(), "event") {
			continue
		}
		f, err := os.Open("/dev/input/" + i.Name())
		if err != nil {
			return err
		}
		go protected("power button", func() error { return s.pressed(f) })
	}
	return nil
}

// signalGrace is the time that processes have after a signal to init, or the power button.
const signalGrace = 10 * time.Second

// pressed waits for the button. An event is 24 bytes: time, type, code, value (linux/input.h).
func (s *system) pressed(f *os.File) error {
	defer f.Close()
	event := make([]byte, 24)
	for {
		if _, err := f.Read(event); err != nil {
			return err
		}
		if event[16] == 1 && event[18] == keyPower && event[20] == 1 { // EV_KEY, pressed
			s.Shutdown(false, signalGrace)
		}
	}
}

// Ports of a QENEX machine, and what is written to them.
const (
	milestones   = 0x5f0 // boot milestones
	userSpace    = 1
	sleepControl = 0x600       // ACPI sleep control register
	enableS5     = 1<<5 | 5<<2 // SLP_EN, SLP_TYP (ACPI 6.5, 4.8.3.7)
)

// putPort writes one byte to an I/O port. On kernels and machines that have none of it nothing happens.
func putPort(port int64, value byte) {
	if f, err := os.OpenFile("/dev/port", os.O_WRONLY, 0); err == nil {
		f.WriteAt([]byte{value}, port)
		f.Close()
	}
}
