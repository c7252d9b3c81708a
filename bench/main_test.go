package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeEnv makes the test binary act as a monitor.
const fakeEnv = "QENEX_BENCH_FAKE"

func TestMain(m *testing.M) {
	if os.Getenv(fakeEnv) != "" {
		fakeMonitor()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeMonitor prints what the guests would print, or what its first argument says, and stays.
func fakeMonitor() {
	switch os.Args[1] {
	case "split":
		fmt.Print("noise A")
		fmt.Print("B behind C")
	case "fatal-stderr":
		fmt.Fprintln(os.Stderr, "first\nKVM bad thing\nlater")
	case "fatal-stdout":
		fmt.Println("CPU 0 bad thing")
	case "end":
		fmt.Fprintln(os.Stderr, "usage: nothing\nno such | file error\nlast")
		return
	case "version":
		fmt.Println("fake 1")
		return
	case "doctor":
		fmt.Println(`{"native": {"context_switch_ns": 28, "exitless_call_ns": 2000, "call_ns": 30000}}`)
		return
	case "exec", "kill":
		return
	case "run":
		if slices.Contains(os.Args, "-d") {
			return
		}
		if os.Args[2] == "--" { // a Linux program
			path, err := exec.LookPath(os.Args[3])
			if err == nil {
				err = unix.Exec(path, os.Args[3:], os.Environ())
			}
			fmt.Fprintln(os.Stderr, err)
			os.Exit(127)
		}
		kernel := os.Args[slices.Index(os.Args, "--kernel")+1]
		fmt.Printf("%c", markFirst)
		switch filepath.Base(kernel) {
		case "ports", "mmio":
			wait := unix.NsecToTimespec(5e6)
			unix.Nanosleep(&wait, nil)
			fmt.Printf("%c", markLast)
		case "vmlinux":
			fmt.Println(userLine + "\nKernel panic: " + trapLine)
			for _, name := range []string{"idle", "seqread", "seqwrite", "randread", "randread8", "randwrite8", "rr", "send", "receive", "end"} {
				fmt.Println("BENCH", name, 2048)
			}
		}
	}
	unix.Pause()
}
