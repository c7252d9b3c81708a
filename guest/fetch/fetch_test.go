package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

var content = bytes.Repeat([]byte("0123456789abcdef"), 1<<12)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// serve serves content; without ranges it sends everything always. sent counts the bytes.
func serve(t *testing.T, ranges bool) (url string, sent *atomic.Int64) {
	sent = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ranges {
			r.Header.Del("Range")
		}
		rec := httptest.NewRecorder()
		http.ServeContent(rec, r, "file", time.Time{}, bytes.NewReader(content))
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		sent.Add(int64(rec.Body.Len()))
		w.Write(rec.Body.Bytes())
	}))
	t.Cleanup(s.Close)
	return s.URL, sent
}

func TestFetch(t *testing.T) {
	half := len(content) / 2
	for _, c := range []struct {
		name   string
		ranges bool
		part   []byte // there before
		sent   int64  // bytes that must cross the network; -1: an error page, no matter how long
	}{
		{"from nothing", true, nil, int64(len(content))},
		{"continued", true, content[:half], int64(len(content) - half)},
		{"server without ranges", false, content[:half], int64(len(content))},
		{"complete but not renamed", true, content, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, sent := serve(t, c.ranges)
			name := filepath.Join(t.TempDir(), "file")
			if c.part != nil {
				if err := os.WriteFile(name+".part", c.part, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var last, total int64
			if err := fetch(t.Context(), url, digestOf(content), name, func(h, n int64) { last, total = h, n }); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.sent >= 0 && (sent.Load() != c.sent || last != int64(len(content)) || total != last) {
				t.Errorf("%d bytes sent, want %d; progress %d of %d", sent.Load(), c.sent, last, total)
			}
			if _, err := os.Stat(name + ".part"); err == nil {
				t.Error("the part is left")
			}
		})
	}
}

func TestFetchWrongDigest(t *testing.T) {
	url, _ := serve(t, true)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name+".part", []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	none := func(int64, int64) {}
	if err := fetch(t.Context(), url, digestOf(content), name, none); !errors.Is(err, errDigest) {
		t.Errorf("a bad part: %v", err)
	}
	// The bad part is gone, so that the next try begins anew.
	if err := fetch(t.Context(), url, digestOf(content), name, none); err != nil {
		t.Errorf("second try: %v", err)
	}
}

func TestFetchErrors(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	name := filepath.Join(t.TempDir(), "file")
	for _, url := range []string{s.URL, "http://127.0.0.1:1/", "no-such-scheme://x", "\x7f"} {
		if err := fetch(t.Context(), url, digestOf(content), name, func(int64, int64) {}); err == nil {
			t.Errorf("%q: no error", url)
		}
	}
	if _, err := os.Stat(name); err == nil {
		t.Error("a file appeared")
	}
}

func TestDescribe(t *testing.T) {
	if got := describe(5<<20, 10<<20); got != "guest:   5 of 10 MiB (50%)" {
		t.Error(got)
	}
	if got := describe(5<<20, -1); got != "guest:   5 MiB" {
		t.Error(got)
	}
}

// TestFetchStalled wants a server that stops sending to end the download, and what it had sent to be kept.
func TestFetchStalled(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("the beginning"))
		w.(http.Flusher).Flush()
		<-stop
	}))
	defer s.Close()
	defer close(stop)
	defer func(d time.Duration) { stall = d }(stall)
	stall = 100 * time.Millisecond
	name := filepath.Join(t.TempDir(), "file")
	if err := fetch(t.Context(), s.URL, digestOf(content), name, func(int64, int64) {}); !errors.Is(err, errStalled) {
		t.Errorf("error %v", err)
	}
	if got, err := os.ReadFile(name + ".part"); string(got) != "the beginning" {
		t.Errorf("part %q, %v", got, err)
	}
}
