package svmlane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/guest/artefact"
)

// Exec runs s in one outer machine and returns how each binary ended, in order. Each line that binary i prints is handed
// to line, without its line end, as it comes. An error means that the machine failed, not a test: what is missing, a
// machine that died or a timeout, with the kernel's last messages. QEMU is gone when Exec returns, and goes when this
// process dies.
//
// One outer machine runs at a time on a host; the wait for another's end does not count towards the timeout.
func Exec(ctx context.Context, s Spec, line func(i int, text string)) ([]Result, error) {
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return nil, err
	}
	h, err := findHost()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "qenex-svmlane")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	m := newMarks()
	image := filepath.Join(dir, "initramfs.cpio")
	if err := buildImage(image, h, s, m); err != nil {
		return nil, fmt.Errorf("svm lane: build the initramfs: %w", err)
	}
	unlock, err := lockHost()
	if err != nil {
		return nil, err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	return boot(ctx, h, s, dir, m, line)
}

// lockHost waits until no other outer machine runs on this host.
func lockHost() (unlock func(), err error) {
	cache, err := artefact.Cache()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "svmlane.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("svm lane: lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// boot starts the outer machine, reads its output to the end and stops it.
func boot(ctx context.Context, h host, s Spec, dir string, m marks, line func(int, string)) ([]Result, error) {
	console := filepath.Join(dir, "console")
	cmd, err := command(h, s, dir, console)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	messages := filepath.Join(dir, "stderr")
	stderr, err := os.Create(messages)
	if err != nil {
		in.Close()
		return nil, err
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	qemu, err := start(cmd)
	in.Close()
	if err != nil {
		return nil, fmt.Errorf("svm lane: start QEMU: %w", err)
	}
	defer qemu.stop()
	// The end of this function, a timeout and a cancelled test all stop QEMU, which ends the reading.
	defer context.AfterFunc(ctx, qemu.kill)()

	results, finished := read(out, s.Binaries, m, line)
	if finished {
		return results, nil
	}
	why := "the outer machine ended before its job did"
	if err := ctx.Err(); err != nil {
		why = fmt.Sprintf("stopped after %v: %v", s.Timeout, err)
	}
	return results, fmt.Errorf("svm lane: %s\n%sthe machine's last messages:\n%s", why, tail(messages, 4096), tail(console, 4096))
}

// kernelCmdline is the outer kernel's. It asks for a periodic tick because QEMU 7.2 loses a CPU's wake-up now and then
// when SVM is used: its emulation of #VMEXIT changes the CPU's pending-interrupt word without a lock. With one-shot timers
// a lost one is the last one, and the machine sleeps for ever; a periodic tick makes good for it after 4 ms.
const kernelCmdline = "console=ttyS0 panic=-1 loglevel=5 nohz=off highres=off"

// command is QEMU's command line.
func command(h host, s Spec, dir, console string) (*exec.Cmd, error) {
	image := filepath.Join(dir, "initramfs.cpio")
	mib, err := sizeMiB(image)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35",
		"-smp", strconv.Itoa(s.CPUs), "-m", strconv.Itoa(s.MemoryMiB + 2*mib),
		"-nodefaults", "-display", "none", "-vga", "none", "-net", "none", "-no-reboot",
		"-serial", "file:" + console, "-serial", "stdio",
		"-kernel", h.kernel, "-initrd", image,
		"-append", kernelCmdline,
	}
	for i, d := range s.Disks {
		id := "disk" + strconv.Itoa(i)
		args = append(args, "-drive", "if=none,format=raw,snapshot=on,id="+id+",file="+d, "-device", "nvme,serial="+id+",drive="+id)
	}
	return exec.Command(h.qemu, args...), nil
}

// read follows the machine's second serial port until the job is done or the port closes.
func read(r io.Reader, binaries []Binary, m marks, line func(int, string)) (results []Result, finished bool) {
	results = make([]Result, len(binaries))
	for i, b := range binaries {
		results[i].Name = b.Name
	}
	current, began := -1, time.Time{}
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 16<<20)
	for s.Scan() {
		f := m.parse(s.Text())
		if current >= 0 && (f.kind == output || f.text != "") {
			line(current, f.text)
		}
		switch f.kind {
		case begin:
			if f.index < len(results) {
				current, began = f.index, time.Now()
			}
		case end:
			if f.index == current {
				results[current].Ran = true
				results[current].ExitCode = f.code
				results[current].Elapsed = time.Since(began)
			}
			current = -1
		case done:
			return results, true
		}
	}
	return results, false
}

// process is a running QEMU. One goroutine, locked to its thread, starts it and waits for it: the kernel kills QEMU when
// the thread that started it ends, which therefore must not happen before QEMU's end but does when this process dies.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

func start(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.gone)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	return p, <-started
}

// kill makes QEMU end soon.
func (p *process) kill() { p.cmd.Process.Kill() }

// stop ends QEMU and returns when it is gone.
func (p *process) stop() {
	p.kill()
	<-p.gone
}

// tail is the last n bytes of a file, or why they cannot be had.
func tail(name string, n int) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}
