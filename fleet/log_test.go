package fleet

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := NewLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for i := range 300 {
		line := strings.Repeat(string(rune('a'+i%26)), i%17) + "\n"
		all += line
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		var got bytes.Buffer
		if err := l.Copy(t.Context(), &got, false); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(all, got.String()) || got.Len() < min(len(all), 50) || got.Len() > 100 {
			t.Fatalf("after %d bytes the log has %q", len(all), got.String())
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + oldLog} {
		if info, err := os.Stat(p); err != nil || info.Size() > 50 {
			t.Errorf("%s: %v, %v", p, info.Size(), err)
		}
	}
	if l.Lost() != 0 {
		t.Errorf("%d bytes lost", l.Lost())
	}
	if _, _ = l.Write([]byte("late")); l.Lost() != 4 {
		t.Errorf("%d bytes lost after Close", l.Lost())
	}
}

func TestFollow(t *testing.T) {
	l, err := NewLog(filepath.Join(t.TempDir(), "log"), 200)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- l.Copy(context.Background(), w, true)
		w.Close()
	}()
	for i := range 40 { // several files long; each line is read before the next is written
		line := strings.Repeat(string(rune('a'+i%26)), 30)
		_, _ = l.Write([]byte(line))
		got := make([]byte, 30)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != line {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Copy(ctx, io.Discard, true); err != nil {
		t.Error(err)
	}
}

// TestLogDiskFull wants a log that cannot be written to count, and the writer not to notice.
func TestLogDiskFull(t *testing.T) {
	l, err := NewLog("/dev/full", 100)
	if err != nil {
		t.Skip(err)
	}
	if n, err := l.Write([]byte("text")); n != 4 || err != nil || l.Lost() != 4 {
		t.Errorf("%d, %v, %d lost", n, err, l.Lost())
	}
}
