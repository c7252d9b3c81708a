package bench

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
)

func fake(t *testing.T, what string, f ...fatal) *process {
	t.Helper()
	t.Setenv(fakeEnv, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(context.Background(), []string{self, what}, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

// Marks are found across writes, in order, and not twice.
func TestAwait(t *testing.T) {
	kvmtest.NoLeaks(t)
	p := fake(t, "split")
	first, err := p.await([]byte("AB"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.await([]byte("C"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if first.Before(p.started) || second.Before(first) {
		t.Errorf("started %v, marks at %v and %v", p.started, first, second)
	}
	if _, err := p.await([]byte("AB"), time.Since(p.started)+50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "nothing after") {
		t.Errorf("a mark that came once was found twice, or: %v", err)
	}
}

func TestAwaitFails(t *testing.T) {
	for what, says := range map[string]string{
		"fatal-stderr": "it means this",
		"fatal-stdout": "it means this",
		"end":          "it ended; stderr: no such  file error",
	} {
		t.Run(what, func(t *testing.T) {
			kvmtest.NoLeaks(t)
			p := fake(t, what, fatal{"bad thing", "it means this"})
			if _, err := p.await([]byte("never"), time.Minute); err == nil || err.Error() != says {
				t.Errorf("error %v, want %q", err, says)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	kvmtest.NoLeaks(t)
	if _, err := start(context.Background(), []string{t.TempDir() + "/none"}, nil); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestParseSmaps(t *testing.T) {
	const text = `00400000-00800000 r-xp 00000000 08:01 123   /usr/bin/monitor
Size:               4096 kB
Rss:                 100 kB
Pss:                  99 kB
c000000000-c004000000 rw-p 00000000 00:00 0
Rss:                  10 kB
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Rss:               20000 kB
7f1000000000-7f1001000000 rw-s 00000000 00:01 55   /memfd:qenex-ram (deleted)
Rss:                5000 kB
7f2000000000-7f2040000000 ---p 00000000 00:00 0
Rss:                   0 kB
VmFlags: rd wr
`
	r, err := parseSmaps(strings.NewReader(text), 256*mib)
	if want := (resident{total: 25110 << 10, own: 110 << 10}); err != nil || r != want {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	for _, bad := range []string{"Rss: x kB", "Rss: 5 MB", "Rss:", "Rss: -1 kB"} {
		if _, err := parseSmaps(strings.NewReader("1000-2000 rw-p 0 0:0 0\n"+bad+"\n"), mib); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if r, err := residentOf(os.Getpid(), 1<<60); err != nil || r.total < mib || r.own != r.total {
		t.Errorf("this process: %+v, %v", r, err)
	}
}
