package trust

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/auditchain"
)

// pair is a connection to ourselves.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// FuzzMessage reads what anybody sends: it may be refused, and what is taken is what was sent.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 'H', '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'R'})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		if len(b) > 2*limit {
			t.Skip("the socket might not hold it")
		}
		a, c := pair(t)
		defer c.Close()
		if _, err := a.Write(b); err != nil {
			t.Fatal(err)
		}
		a.Close()
		for {
			kind, body, files, err := receive(c, limit)
			if len(files) > 0 || len(body) > limit {
				t.Errorf("%d files, %d bytes", len(files), len(body))
			}
			if err != nil {
				return
			}
			if len(b) < headSize+len(body) || kind != b[4] || string(body) != string(b[headSize:headSize+len(body)]) {
				t.Fatalf("%q became %c %q", b, kind, body)
			}
			b = b[headSize+len(body):]
		}
	})
}

// FuzzRecords adds batches of records as a process of a guest might send them: the log stays a log, in which the process is the one that the
// kernel names.
func FuzzRecords(f *testing.F) {
	key, err := auditchain.NewKey("fuzz/audit")
	if err != nil {
		f.Fatal(err)
	}
	log, err := auditchain.Open(f.TempDir(), auditchain.Config{Key: key})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := log.Close(); err != nil {
			f.Error(err)
		}
	})
	for _, k := range []auditchain.Kind{auditchain.Launch, auditchain.Syscall, auditchain.Block} {
		r, err := auditchain.Record{Kind: k, Time: 1, Who: "me", Verb: "v", Detail: "d"}.AppendBinary([]byte{0, 0})
		if err != nil {
			f.Fatal(err)
		}
		r[1] = byte(len(r) - 2)
		f.Add(append(r, r...))
	}
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &session{k: &keeper{log: log}, who: "process", vm: "vm"}
		_ = s.records(b) // most are refused
		if err := log.Err(); err != nil {
			t.Fatal(err)
		}
	})
}
