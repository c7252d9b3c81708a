package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the guest of guest/bench/measure does. Runs are short: on a software KVM and in an emulated machine the figures of
// a few seconds differ from each other as much as those of a minute.
const (
	deviceSeconds = 4
	diskSize      = 256 * mib
	deviceMemory  = 512 * mib

	// A software KVM emulates the guest's kernel: fio took 94 s in all on an idle host, and minutes on a busy one.
	softPatience = 5

	idleSettle = 2 * time.Second
	idleLook   = 10 * time.Second
)

// Ports on which the host's side listens for vsock.
const (
	echoPort   = 5001
	streamPort = 5002
)

// deviceTest is one guest with devices, and the rows that it prints figures for.
type deviceTest struct {
	rows    []Row
	figures []string // by row, the names that guest/bench/measure prints
	others  string   // why only QENEX can be measured; "" if others can
	run     func(m *meter, ctx context.Context, dir string) (deviceJob, error)
}

// deviceJob is what a guest needs, and what ends with it.
type deviceJob struct {
	job
	close func()
}

var deviceTests = map[string]deviceTest{
	"disk": {
		rows: []Row{
			{Title: "disk: sequential read, 256 KiB, O_DIRECT in the guest, page cache on the host", Unit: "MiB/s", More: true, Goal: "not below QEMU"},
			{Title: "disk: sequential write, 256 KiB", Unit: "MiB/s", More: true, Goal: "not below QEMU"},
			{Title: "disk: random read, 4 KiB, one at a time", Unit: "IOPS", More: true, Goal: "not below QEMU"},
			{Title: "disk: random read, 4 KiB, eight at a time", Unit: "IOPS", More: true, Goal: "not below QEMU"},
			{Title: "disk: random write, 4 KiB, eight at a time", Unit: "IOPS", More: true, Goal: "not below QEMU"},
		},
		figures: []string{"seqread", "seqwrite", "randread", "randread8", "randwrite8"},
		run:     (*meter).diskJob,
	},
	"net": {
		rows: []Row{
			{Title: "user-mode network: a byte to the host's loopback and back over TCP", Unit: "us", Goal: "not above QEMU's slirp"},
			{Title: "user-mode network: TCP from the guest (iperf3)", Unit: "Mbit/s", More: true, Goal: "twice QEMU's slirp"},
			{Title: "user-mode network: TCP to the guest (iperf3 -R)", Unit: "Mbit/s", More: true, Goal: "twice QEMU's slirp"},
		},
		figures: []string{"rr", "send", "receive"},
		run:     (*meter).netJob,
	},
	"vsock": {
		rows: []Row{
			{Title: "vsock: a byte to a unix socket of the host and back", Unit: "us"},
			{Title: "vsock: stream from the guest", Unit: "MiB/s", More: true},
		},
		figures: []string{"rr", "send"},
		others:  "not run: QEMU's vsock is the host kernel's vhost, which is not there",
		run:     (*meter).vsockJob,
	},
}

// deviceExperiments measure virtio devices in a Linux guest.
func (m *meter) deviceExperiments(o *Options, dir string) []experiment {
	var all []experiment
	for _, name := range []string{"disk", "net", "vsock"} {
		t := deviceTests[name]
		all = append(all, experiment{name, o.BootRuns, t.rows, func(ctx context.Context, p peer) ([]float64, error) {
			return m.devices(ctx, p, t, dir)
		}})
	}
	all = append(all, experiment{"exec", o.BootRuns, []Row{
		{Title: "qenex exec NAME true in a running machine, start to exit", Unit: "ms"},
	}, func(ctx context.Context, p peer) ([]float64, error) { return m.exec(ctx, p, dir) }})
	return append(all, experiment{"idle", o.BootRuns, []Row{
		{Title: "CPU time of the monitor, vCPU included, while its Linux guest with disk and network sleeps", Unit: "% of a CPU", Goal: "under 0.5 in the monitor"},
	}, func(ctx context.Context, p peer) ([]float64, error) { return m.idleCPU(ctx, p, dir) }})
}

// errSoftPeer is why QEMU has no figures of Linux programs on a software KVM.
var errSoftPeer = errors.New("not run: on this KVM, SYSCALL arrives at CPL 3, and no program of a 64-bit Linux guest gets further")

// devices boots the guest of a test and reads its figures.
func (m *meter) devices(ctx context.Context, p peer, t deviceTest, dir string) ([]float64, error) {
	if p.name != qenexName && t.others != "" {
		return nil, errors.New(t.others)
	}
	q, end, err := m.bootDevices(ctx, p, dir, t.run)
	if err != nil {
		return nil, err
	}
	defer end()
	limit := m.limit
	if m.soft {
		limit *= softPatience
	}
	if _, err := q.await([]byte("BENCH end"), limit); err != nil {
		return nil, fmt.Errorf("measuring in the guest: %w", err)
	}
	values := make([]float64, len(t.figures))
	for i, name := range t.figures {
		if values[i], err = printed(q.console, name); err != nil {
			return nil, err
		}
		if t.rows[i].Unit == "MiB/s" && name != "send" {
			values[i] /= 1024 // fio's are KiB/s
		}
	}
	return values, nil
}

// bootDevices starts the guest that run makes the job of.
func (m *meter) bootDevices(ctx context.Context, p peer, dir string, run func(*meter, context.Context, string) (deviceJob, error)) (*process, func(), error) {
	if m.files.kernel == "" || m.files.devices == "" {
		return nil, nil, errors.New("not run: no Linux guest here; guest/build.sh lean bench makes it")
	}
	if m.soft && p.name != qenexName {
		return nil, nil, errSoftPeer
	}
	if p.devices == nil {
		return nil, nil, errors.New("not run: it has no such devices, or none that this bench knows")
	}
	dir, err := os.MkdirTemp(dir, "devices-")
	if err != nil {
		return nil, nil, err
	}
	d, err := run(m, ctx, dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.kernel, d.initrd, d.memory = m.files.kernel, m.files.devices, deviceMemory
	if m.soft {
		d.cmdline = softCmdline + " " + d.cmdline
	} else {
		d.cmdline = cmdline + " " + d.cmdline
	}
	q, err := start(ctx, append(append([]string{p.path}, p.args(d.job)...), p.devices(d.job)...), p.fatal)
	if err != nil {
		d.close()
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return q, func() {
		q.stop()
		d.close()
		os.RemoveAll(dir)
	}, nil
}

// inGuest is the kernel parameter that has the guest run a function of guest/bench/measure.
func inGuest(words ...any) string {
	return fmt.Sprintf(`qenex.cmd=". /measure %s"`, strings.TrimSuffix(fmt.Sprintln(words...), "\n"))
}

// printed finds the line "BENCH name value" on a console.
func printed(console []byte, name string) (float64, error) {
	for line := range bytes.Lines(console) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "BENCH" && f[1] == name {
			return strconv.ParseFloat(f[2], 64)
		}
	}
	return 0, fmt.Errorf("the guest printed no figure %q; its last words: %s", name, last(console, 400))
}

// diskJob has a disk whose blocks are all there and in the host's page cache.
func (m *meter) diskJob(_ context.Context, dir string) (deviceJob, error) {
	disk, err := fullDisk(dir)
	return deviceJob{job{disk: disk, cmdline: inGuest("disk", deviceSeconds)}, func() {}}, err
}

func fullDisk(dir string) (string, error) {
	path := filepath.Join(dir, "disk.img")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	block := make([]byte, mib)
	for i := range block {
		block[i] = byte(i*7 + i>>8)
	}
	for range diskSize / mib {
		if _, err := f.Write(block); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return path, f.Close()
}

func (m *meter) netJob(ctx context.Context, _ string) (deviceJob, error) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return deviceJob{}, err
	}
	go serve(echo, answerBytes)
	port, err := freePort()
	if err != nil {
		return deviceJob{}, errors.Join(err, echo.Close())
	}
	iperf := exec.CommandContext(ctx, "iperf3", "-s", "-B", "127.0.0.1", "-p", strconv.Itoa(port))
	if err := iperf.Start(); err != nil {
		return deviceJob{}, errors.Join(fmt.Errorf("not run: no iperf3 here: %w", err), echo.Close())
	}
	rounds := 1000
	if m.soft {
		rounds = 100
	}
	return deviceJob{
		job{net: true, cmdline: inGuest("net", deviceSeconds, port, echo.Addr().(*net.TCPAddr).Port, rounds)},
		func() {
			echo.Close()
			iperf.Process.Kill()
			iperf.Wait()
		},
	}, nil
}

// freePort returns a TCP port that nobody listens on; somebody else may take it first, which fails the run.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (m *meter) vsockJob(_ context.Context, dir string) (deviceJob, error) {
	path := filepath.Join(dir, "vsock")
	echo, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, echoPort))
	if err != nil {
		return deviceJob{}, err
	}
	sink, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, streamPort))
	if err != nil {
		return deviceJob{}, errors.Join(err, echo.Close())
	}
	go serve(echo, answerBytes)
	go serve(sink, swallow)
	rounds, amount := 1000, 256
	if m.soft {
		rounds, amount = 100, 32
	}
	return deviceJob{
		job{vsock: path, cmdline: inGuest("vsock", echoPort, rounds, streamPort, amount)},
		func() { echo.Close(); sink.Close() },
	}, nil
}

// serve answers connections, one after the other, until the listener is closed.
func serve(l net.Listener, answer func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		answer(c)
		c.Close()
	}
}

// answerBytes answers every byte with a byte.
func answerBytes(c net.Conn) {
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// swallow reads to the end, then says so.
func swallow(c net.Conn) {
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 256<<10)); err == nil {
		_, _ = c.Write([]byte{'.'})
	}
}

// idleCPU measures the CPU time of a monitor whose guest sleeps.
func (m *meter) idleCPU(ctx context.Context, p peer, dir string) ([]float64, error) {
	q, end, err := m.bootDevices(ctx, p, dir, func(m *meter, _ context.Context, dir string) (deviceJob, error) {
		disk, err := fullDisk(dir)
		return deviceJob{job{disk: disk, net: true, cmdline: inGuest("idle", int((idleSettle+idleLook)/time.Second)+30)}, func() {}}, err
	})
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := q.await([]byte("BENCH idle"), m.limit); err != nil {
		return nil, err
	}
	time.Sleep(idleSettle)
	begin, err := cpuTime(q.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(idleLook)
	end2, err := cpuTime(q.cmd.Process.Pid)
	return []float64{100 * float64(end2-begin) / float64(idleLook)}, err
}

// cpuTime returns the CPU time of all threads of a process, as its CPU clock has it.
func cpuTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	clock := int32(^pid<<3 | 2) // CPUCLOCK_SCHED of a process: include/linux/posix-timers.h
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// execRounds is how many commands one run of exec takes the mean of.
const execRounds = 10

// exec runs commands in a machine in the background.
func (m *meter) exec(ctx context.Context, p peer, dir string) ([]float64, error) {
	if p.name != qenexName {
		return nil, errors.New("not run: it has no agent in its guests")
	}
	if m.files.busybox == "" {
		return nil, errors.New("not run: no busybox here; guest/build.sh busybox lean agent makes it and what else is needed")
	}
	dir, err := os.MkdirTemp(dir, "exec-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "root", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(m.files.busybox)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"true", "sleep"} {
		if err := os.WriteFile(filepath.Join(bin, name), text, 0o755); err != nil {
			return nil, err
		}
	}
	qenex := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, p.path, args...)
		cmd.Env = append(os.Environ(), "QENEX_RUN="+filepath.Join(dir, "run"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("qenex %s: %w: %s", args[0], err, last(out, 400))
		}
		return nil
	}
	if err := qenex(ctx, "run", "--image", "dir:"+filepath.Join(dir, "root"), "-d", "--name", "bench", "--", "/bin/sleep", "1000000"); err != nil {
		return nil, err
	}
	defer func() { _ = qenex(context.WithoutCancel(ctx), "kill", "bench") }() // it is there, or has ended by itself
	if err := qenex(ctx, "exec", "bench", "/bin/true"); err != nil {
		return nil, err
	}
	begin := time.Now()
	for range execRounds {
		if err := qenex(ctx, "exec", "bench", "/bin/true"); err != nil {
			return nil, err
		}
	}
	return []float64{ms(time.Since(begin)) / execRounds}, nil
}
