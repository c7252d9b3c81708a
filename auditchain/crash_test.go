package auditchain

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/auditchain/verify"
)

// crashEnv tells a child of the crash test which directory has its key, its anchor and its log.
const crashEnv = "QENEX_AUDIT_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		fmt.Fprintln(os.Stderr, crashChild(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashChild writes records until it is killed, and prints the places of those that were acknowledged.
func crashChild(dir string) error {
	k, err := LoadKey(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	l, err := Open(filepath.Join(dir, "log"), Config{
		Key: k, Anchor: FileAnchor(filepath.Join(dir, "anchor")), CommitInterval: time.Millisecond, BlockInterval: 5 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	for {
		var pending []Pending
		for range 1 + rand.IntN(60) {
			p, err := l.Add(Record{Kind: Command, Who: "child", Verb: fmt.Sprintf("%d-%d", os.Getpid(), rand.Uint64())})
			if err != nil {
				return err
			}
			pending = append(pending, p)
		}
		line := "durable"
		for _, p := range pending {
			if err := p.Wait(); err != nil {
				return err
			}
			line += fmt.Sprint(" ", p.Index)
		}
		if _, err := os.Stdout.WriteString(line + "\n"); err != nil { // one write: the line is there or not
			return err
		}
	}
}

// TestKill kills a process that writes, at random points. What it was told to be on disk is there, and the log verifies.
func TestKill(t *testing.T) {
	kills, each := 200, 20 // of one log
	if testing.Short() {
		kills = 20
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var acked, trims, early int
	var dir string
	var k *Key
	owner := map[uint64]int{} // which process was told that the record lasts
	check := func() {
		anchored, hash, err := FileAnchor(filepath.Join(dir, "anchor")).Last()
		if err != nil {
			t.Fatal(err)
		}
		f := os.DirFS(filepath.Join(dir, "log"))
		report := verifyFS(t, f, k, verify.Options{Anchored: anchored, AnchorHash: hash})
		trims += int(report.Kinds["trim"])
		r, err := OpenReader(filepath.Join(dir, "log"), k.Public())
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range r.Records(0, report.Size) {
			if err != nil {
				t.Fatal(err)
			}
			pid, ok := owner[e.Index]
			var got int
			if ok {
				if _, err := fmt.Sscanf(e.Record.Verb, "%d-", &got); err != nil || got != pid {
					t.Errorf("record %d is %q, process %d was told it is its own", e.Index, e.Record.Verb, pid)
				}
				delete(owner, e.Index)
			}
		}
		if len(owner) != 0 {
			t.Errorf("%d acknowledged records are lost", len(owner))
		}
		clear(owner)
	}
	for n := range kills {
		if n%each == 0 {
			if n > 0 {
				check()
			}
			dir = t.TempDir()
			if k, err = CreateKey(filepath.Join(dir, "key"), "crash.test/audit"); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A child is killed some time after it began, so that opening is met as well, or after some acknowledgements.
		lines := bufio.NewScanner(out)
		count, limit := 0, rand.IntN(6)
		kill := func() {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
		var timer *time.Timer
		if n%2 == 0 {
			timer = time.AfterFunc(time.Duration(rand.IntN(int(80*time.Millisecond))), kill)
		} else if limit == 0 {
			kill()
		}
		for lines.Scan() {
			for _, word := range strings.Fields(lines.Text())[1:] {
				index, err := strconv.ParseUint(word, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				owner[index] = cmd.Process.Pid
				acked++
			}
			if count++; timer == nil && count == limit {
				timer = time.AfterFunc(time.Duration(rand.IntN(int(10*time.Millisecond))), kill)
			}
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the child ended by itself: %v", err)
		}
		if count == 0 {
			early++
		}
	}
	check()
	t.Logf("%d kills, %d of them before the first acknowledgement: %d acknowledged records are all there; %d torn commits were trimmed and recorded", kills, early, acked, trims)
	if acked == 0 {
		t.Error("the test did not do its work")
	}
}
