// Package tesserabench holds auditchain against transparency-dev/tessera's POSIX driver: the same records, the same disk, batches of
// at most 10 ms, and the clock stops when all of it lasts.
//
//	cd auditchain/tesserabench && go test -bench .
package tesserabench

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"
)

// chunk is how many records are on their way at once.
const chunk = 4096

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func record(n int) auditchain.Record {
	return auditchain.Record{Kind: auditchain.Syscall, Time: 1764000000123456789, Who: "pid 4711 tid 4712", Verb: "openat", VM: "web-1",
		Detail: "O_RDONLY|O_CLOEXEC", Result: int64(n)}
}

func BenchmarkAuditchain(b *testing.B) {
	k, err := auditchain.NewKey("bench.test/audit")
	if err != nil {
		b.Fatal(err)
	}
	l, err := auditchain.Open(b.TempDir(), auditchain.Config{Key: k})
	if err != nil {
		b.Fatal(err)
	}
	pending := make([]auditchain.Pending, 0, chunk)
	wait := func() {
		for _, p := range pending {
			if err := p.Wait(); err != nil {
				b.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	n := 0
	for b.Loop() {
		p, err := l.Add(record(n))
		if err != nil {
			b.Fatal(err)
		}
		if pending = append(pending, p); len(pending) == chunk {
			wait()
		}
		n++
	}
	wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkTesseraPOSIX(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	skey, _, err := note.GenerateKey(rand.Reader, "bench.test/tessera")
	if err != nil {
		b.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		b.Fatal(err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	options := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(chunk, 10*time.Millisecond).
		WithCheckpointInterval(100 * time.Millisecond).WithPushback(2 * chunk)
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		b.Fatal(err)
	}
	pending := make([]tessera.IndexFuture, 0, chunk)
	wait := func() {
		for _, p := range pending {
			if _, err := p(); err != nil {
				b.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	n := 0
	for b.Loop() {
		data, err := record(n).AppendBinary(nil)
		if err != nil {
			b.Fatal(err)
		}
		if pending = append(pending, appender.Add(ctx, tessera.NewEntry(data))); len(pending) == chunk {
			wait()
		}
		n++
	}
	wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	if err := shutdown(ctx); err != nil {
		b.Fatal(err)
	}
}
