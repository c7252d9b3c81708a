package simulate

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// record observes real processes, shell loops and sleepers, and writes testdata.
func record(t *testing.T) {
	const loop = `i=0; while [ $i -lt %d ]; do i=$((i+1)); done`
	hog := fmt.Sprintf(loop, 100_000_000)
	server := "while :; do sleep 0.01; " + fmt.Sprintf(loop, 2000) + "; done"
	phases := "while :; do sleep 0.7; " + fmt.Sprintf(loop, 300_000) + "; done"
	for name, programs := range map[string][]string{
		"hogs-and-servers": {hog, hog, hog, server, server},
		"phases":           {hog, phases, phases, phases, server},
	} {
		var ps []*exec.Cmd
		for _, p := range programs {
			c := exec.Command("/bin/sh", "-c", p)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ps = append(ps, c)
		}
		defer func() {
			for _, c := range ps {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
		}()
		r := NewRecorder()
		read := func(pid int) (s Sample) {
			var run, wait int64
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
			if err == nil {
				_, err = fmt.Sscan(string(b), &run, &wait)
			}
			if err != nil {
				t.Fatal(err)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(status)) {
				if n, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					if _, err := fmt.Sscan(n, &s.Voluntary); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.Run, s.Wait = time.Duration(run), time.Duration(wait)
			return s
		}
		last := make([]Sample, len(ps))
		for i, c := range ps {
			last[i] = read(c.Process.Pid)
		}
		before := time.Now()
		for range time.Tick(250 * ms) {
			now := time.Now()
			var all []Observed
			for i, c := range ps {
				s := read(c.Process.Pid)
				all = append(all, Observed{Name: fmt.Sprintf("sh%d", i), VM: fmt.Sprintf("sh%d", i),
					Sample: Sample{s.Run - last[i].Run, s.Wait - last[i].Wait, s.Voluntary - last[i].Voluntary}})
				last[i] = s
			}
			if err := r.Next(now.Sub(before), all); err != nil {
				t.Fatal(err)
			}
			before = now
			if r.begun > 8*time.Second {
				break
			}
		}
		tr, err := r.Trace()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create("testdata/" + name + ".jsonl")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := tr.Write(f); err != nil {
			t.Fatal(err)
		}
		for _, c := range ps {
			_ = c.Process.Kill()
		}
	}
}
