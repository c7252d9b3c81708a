package blockdev

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What this binary does as a child process: QENEX_TEST_CHILD names it.
func TestMain(m *testing.M) {
	switch os.Getenv("QENEX_TEST_CHILD") {
	case "writer":
		writer()
	case "full":
		full()
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), "QENEX_TEST_CHILD="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

func specEnv(s Spec) []string {
	return []string{"QENEX_TEST_PATH=" + s.Path, "QENEX_TEST_OVERLAY=" + s.Overlay, "QENEX_TEST_CACHE=" + string(s.Cache)}
}

func envSpec() Spec {
	return Spec{Path: os.Getenv("QENEX_TEST_PATH"), Format: Raw, Overlay: os.Getenv("QENEX_TEST_OVERLAY"), Cache: Cache(os.Getenv("QENEX_TEST_CACHE"))}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	crashSize  = 4 << 20
	crashStep  = 6 << 10 // not a multiple of the overlay's blocks
	crashTotal = crashSize / crashStep
)

// writer writes step after step, flushes now and then, and says how many steps it has flushed.
func writer() {
	d, err := Open(envSpec())
	must(err)
	for i := range crashTotal {
		must(d.Write([][]byte{noise(uint64(i), crashStep)}, int64(i)*crashStep))
		if i%3 == 2 {
			must(d.Flush())
			fmt.Println(i + 1)
		}
	}
	fmt.Println("end")
	must(unix.Pause()) // until it is killed
}

// TestKill kills a process that writes: what it had flushed is there, and the rest is old or new.
func TestKill(t *testing.T) {
	old := noise(1000, crashSize)
	specs := map[string]Spec{
		"raw":     {Path: writeImage(t, old), Format: Raw},
		"overlay": {Path: writeImage(t, old), Format: Raw, Overlay: t.TempDir() + "/overlay"},
	}
	if hasDirect(t, specs["raw"].Path) {
		specs["direct"] = Spec{Path: writeImage(t, old), Format: Raw, Cache: Direct}
	}
	for name, spec := range specs {
		t.Run(name, func(t *testing.T) {
			for _, stop := range []int{3, 60, 300, crashTotal} {
				cmd := child(t, "writer", specEnv(spec)...)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				flushed := 0
				for lines := bufio.NewScanner(out); flushed < stop && lines.Scan() && lines.Text() != "end"; {
					if flushed, err = strconv.Atoi(lines.Text()); err != nil {
						t.Fatal(err)
					}
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("the writer was not killed: %v", err)
				}
				if flushed < 3 {
					t.Fatal("the writer flushed nothing")
				}
				d := mustOpen(t, spec)
				got := readAll(t, d)
				for i := range crashTotal {
					at := i * crashStep
					step, fresh := got[at:at+crashStep], noise(uint64(i), crashStep)
					if i < flushed && !bytes.Equal(step, fresh) {
						t.Fatalf("step %d of %d that were flushed is lost", i, flushed)
					}
					for j := range step {
						if step[j] != fresh[j] && step[j] != old[at+j] {
							t.Fatalf("byte %d is neither old nor new", at+j)
						}
					}
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestDiskFull fills a small file system, in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	for _, overlay := range []string{"", dir + "/overlay"} {
		cmd := child(t, "full", "QENEX_TEST_PATH="+dir, "QENEX_TEST_OVERLAY="+overlay)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		err := cmd.Run()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			t.Skipf("this user may not have a mount namespace: %v", err)
		}
		if err != nil {
			t.Errorf("overlay %q: %v", overlay, err)
		}
	}
}

// full writes more to a sparse image, or to an overlay, than its file system holds, and then as much again.
func full() {
	dir := os.Getenv("QENEX_TEST_PATH")
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	s := Spec{Path: dir + "/disk", Format: Raw, Overlay: os.Getenv("QENEX_TEST_OVERLAY")}
	const size, step = 8 << 20, 16 << 10
	f, err := os.Create(s.Path)
	must(err)
	must(f.Truncate(size))
	must(f.Close())
	d, err := Open(s)
	must(err)
	wrote := map[int]bool{}
	failed := 0
	for i := range size / step {
		switch err := d.Write([][]byte{noise(uint64(i), step)}, int64(i)*step); {
		case err == nil:
			wrote[i] = true
		case errors.Is(err, unix.ENOSPC):
			failed++
		default:
			must(err)
		}
	}
	if failed == 0 || len(wrote) == 0 {
		must(fmt.Errorf("%d writes succeeded, %d found the file system full", len(wrote), failed))
	}
	// A bitmap may have no room for itself any more: then flushing is an error.
	if err := d.Flush(); err != nil && (s.Overlay == "" || !errors.Is(err, unix.ENOSPC)) {
		must(err)
	}
	for i := range size / step {
		got := make([]byte, step)
		must(d.Read([][]byte{got}, int64(i)*step))
		if wrote[i] && !bytes.Equal(got, noise(uint64(i), step)) {
			must(fmt.Errorf("step %d was written and is lost", i))
		}
	}
	must(d.Discard(0, size/2)) // makes room
	must(d.Write([][]byte{noise(7, step)}, size-step))
	must(d.Flush())
	must(d.Close())
	d, err = Open(s)
	must(err)
	got := make([]byte, step)
	must(d.Read([][]byte{got}, size-step))
	if !bytes.Equal(got, noise(7, step)) {
		must(errors.New("what was written after there was room again is lost"))
	}
	must(d.Close())
}
