package vmm

import (
	"bytes"
	"io"
)

// watcher passes console output on and tells when a text first appears in it, also across writes.
// It is used by one goroutine at a time.
type watcher struct {
	out   io.Writer // nil drops
	marks []mark
	tail  []byte // the end of what was seen, one byte shorter than the longest text left
	first func() // called at the first byte; nil afterwards
}

type mark struct {
	text []byte
	seen func() // nil once called
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.first != nil && len(p) > 0 {
		w.first()
		w.first = nil
	}
	w.scan(p)
	if w.out == nil {
		return len(p), nil
	}
	return w.out.Write(p)
}

func (w *watcher) scan(p []byte) {
	longest := 0
	for _, m := range w.marks {
		if m.seen != nil {
			longest = max(longest, len(m.text))
		}
	}
	if longest == 0 {
		return
	}
	seen := append(w.tail, p...)
	for i := range w.marks {
		m := &w.marks[i]
		if m.seen != nil && bytes.Contains(seen, m.text) {
			m.seen()
			m.seen = nil
		}
	}
	w.tail = append(w.tail[:0], seen[max(0, len(seen)-longest+1):]...)
}
