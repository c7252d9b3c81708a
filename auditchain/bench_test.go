package auditchain

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/qenex/qenex-kernel/auditchain/verify"
)

// nullStorage keeps nothing.
type nullStorage struct{ fstest.MapFS }

func (nullStorage) WriteSync(string, []byte) error         { return nil }
func (nullStorage) AppendSync(string, int64, []byte) error { return nil }
func (nullStorage) Mkdir(string) error                     { return nil }
func (nullStorage) SyncDir(string) error                   { return nil }
func (nullStorage) Rename(string, string) error            { return nil }
func (nullStorage) RemoveAll(string) error                 { return nil }
func (nullStorage) Close() error                           { return nil }

var benchRecord = Record{Kind: Syscall, Time: 1764000000123456789, Who: "pid 4711 tid 4712", Verb: "openat", VM: "web-1", Detail: "O_RDONLY|O_CLOEXEC"}

// perSecond adds the rate of records to a benchmark's line.
func perSecond(b *testing.B, records int) {
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkMemory is the whole way of a record on one core, but for the disk: encoding, hashing, tree, tiles, checkpoints, blocks.
func BenchmarkMemory(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l, err := open(nullStorage{}, nullStorage{}, Config{Key: testKey(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Add(benchRecord); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Flush(); err != nil {
		b.Fatal(err)
	}
	perSecond(b, b.N)
	mustClose(b, l)
}

// BenchmarkDurable adds records one after the other, as they come; all of them are on disk in the end. Commits are 10 ms apart, or
// what the disk takes.
func BenchmarkDurable(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Config{})
	for b.Loop() {
		if _, err := l.Add(benchRecord); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Flush(); err != nil {
		b.Fatal(err)
	}
	perSecond(b, b.N)
	mustClose(b, l)
}

// BenchmarkAppend is the time until one record is on disk, when nobody else writes.
func BenchmarkAppend(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Config{})
	for b.Loop() {
		if _, err := l.Append(benchRecord); err != nil {
			b.Fatal(err)
		}
	}
	mustClose(b, l)
}

// BenchmarkVerify verifies a log of 200,000 records whose files are in memory, and BenchmarkVerifyDisk from files.
func BenchmarkVerify(b *testing.B)     { benchmarkVerify(b, true) }
func BenchmarkVerifyDisk(b *testing.B) { benchmarkVerify(b, false) }

func benchmarkVerify(b *testing.B, memory bool) {
	const records = 200_000
	dir := filepath.Join(b.TempDir(), "log")
	l := mustOpen(b, dir, Config{})
	for range records {
		if _, err := l.Add(benchRecord); err != nil {
			b.Fatal(err)
		}
	}
	mustClose(b, l)
	var f fs.FS = os.DirFS(dir)
	if memory {
		testKeys = []*Key{testKey(b)}
		f = copyLog(b, dir)
	}
	b.ReportAllocs()
	for b.Loop() {
		verifyFS(b, f, testKey(b), verify.Options{})
	}
	perSecond(b, b.N*records)
}
