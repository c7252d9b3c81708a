package observe

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// playerEnv makes the test program one of the processes of TestPairsLive.
const playerEnv = "OBSERVE_TEST_PLAYER"

func TestMain(m *testing.M) {
	switch os.Getenv(playerEnv) {
	case "ping", "pong":
		ball := []byte{1}
		ping := os.Getenv(playerEnv) == "ping"
		if ping {
			_, _ = unix.Write(1, ball)
		}
		for {
			if ping && rand.IntN(300) == 0 { // work comes unevenly
				_ = unix.Nanosleep(&unix.Timespec{Nsec: rand.Int64N(5e7)}, nil)
			}
			if n, err := unix.Read(0, ball); err == unix.EINTR {
				continue
			} else if n != 1 {
				return
			}
			if _, err := unix.Write(1, ball); err != nil {
				return
			}
		}
	case "sleepy":
		for os.Getppid() != 1 {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: rand.Int64N(4e5)}, nil)
		}
		return
	}
	os.Exit(m.Run())
}

// Of two processes that play ping-pong over pipes, and two that sleep and wake by themselves, the two players come out as the one link. On a
// busy machine a chance link may come first; it must go.
func TestPairsLive(t *testing.T) {
	var ends [4]*os.File
	for i := range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ends[2*i], ends[2*i+1] = r, w
	}
	var items []Item
	start := func(name, role string, in, out *os.File) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), playerEnv+"="+role)
		if in != nil {
			cmd.Stdin, cmd.Stdout = in, out
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may have ended with its partner
			_ = cmd.Wait()
		})
		items = append(items, Item{Name: name, PID: cmd.Process.Pid, Whole: true, VM: strconv.Itoa(cmd.Process.Pid)})
	}
	start("ping", "ping", ends[0], ends[3])
	start("pong", "pong", ends[2], ends[1])
	start("sleepy a", "sleepy", nil, nil)
	start("sleepy b", "sleepy", nil, nil)
	for _, f := range ends {
		f.Close()
	}
	w := NewWatcher()
	defer w.Close()
	var pairs Pairs
	var all []Link
	last := map[string]Sample{}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < 60*time.Second; <-tick.C {
		deltas := map[string]Sample{}
		var dt time.Duration
		for _, it := range items {
			s, err := w.Read(it)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := last[it.Name]; ok {
				deltas[it.Name], dt = s.Since(last[it.Name])
			}
			last[it.Name] = s
		}
		pairs.Observe(dt, deltas)
		links := pairs.Links()
		if len(links) == 1 && links[0].A == "ping" && links[0].B == "pong" && links[0].Rate >= pairRate {
			t.Logf("after %d epochs: %+v", pairs.epoch, links)
			return
		}
		all = links
	}
	t.Errorf("after %d epochs the links are %+v, must be that of ping and pong alone", pairs.epoch, all)
}
