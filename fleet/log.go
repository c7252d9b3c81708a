package fleet

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
)

// LogLimit is how much of a machine's console, and of its command's output, is kept, in bytes.
const LogLimit = 8 << 20

// oldLog is the suffix of the older half.
const oldLog = ".1"

// Log is a file that keeps the end of what is written to it: two files of at most half the limit each, of which the older is given up for
// the newer. Writing never fails, for a guest must not notice a disk that is full: what cannot be written is counted.
type Log struct {
	path string
	half int64

	mu      sync.Mutex
	f       *os.File      // protected by mu; nil after Close, and after an error that left none
	size    int64         // protected by mu; of f
	turns   uint64        // protected by mu; how often a new file was begun
	lost    uint64        // protected by mu; bytes
	changed chan struct{} // protected by mu; closed and replaced when there is more to read, or no more will come
	closed  bool          // protected by mu
}

// NewLog makes the log at path, which keeps at most limit bytes.
func NewLog(path string, limit int64) (*Log, error) {
	f, err := openLog(path)
	if err != nil {
		return nil, err
	}
	return &Log{path: path, half: limit / 2, f: f, changed: make(chan struct{})}, nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
}

// Write appends p. It always returns len(p).
func (l *Log) Write(p []byte) (int, error) {
	all := len(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		if l.size >= l.half {
			l.turn()
		}
		if l.f == nil {
			break
		}
		n, err := l.f.Write(p[:min(int64(len(p)), l.half-l.size)])
		l.size += int64(n)
		p = p[n:]
		if err != nil {
			break
		}
	}
	l.lost += uint64(len(p))
	if !l.closed {
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return all, nil
}

// turn begins a new file. mu is held.
func (l *Log) turn() {
	if l.closed {
		return
	}
	if l.f != nil {
		_ = l.f.Close() // what it could not write has been counted
		l.f = nil
	}
	if os.Rename(l.path, l.path+oldLog) != nil {
		return
	}
	if f, err := openLog(l.path); err == nil {
		l.f, l.size = f, 0
		l.turns++
	}
}

// Lost returns how many bytes could not be written.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Close ends the log: who follows it has read all. The files stay.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.changed)
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// Copy writes what the log holds to w. With follow it goes on until the log is closed or ctx is done; who reads more slowly than
// two files fill loses what is between.
func (l *Log) Copy(ctx context.Context, w io.Writer, follow bool) error {
	old, now, turns, err := l.open()
	if err != nil {
		return err
	}
	defer func() { now.Close() }()
	if old != nil {
		_, err := io.Copy(w, old)
		if err = errors.Join(err, old.Close()); err != nil {
			return err
		}
	}
	for {
		l.mu.Lock()
		changed, closed, turned := l.changed, l.closed, l.turns != turns
		l.mu.Unlock()
		if _, err := io.Copy(w, now); err != nil {
			return err
		}
		switch {
		case turned: // now was complete before it was read to its end
			_ = now.Close()
			if old, now, turns, err = l.open(); err != nil {
				return err
			}
			if old != nil {
				_ = old.Close()
			}
			continue
		case closed || !follow:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// open opens both files for reading. old is nil if there is none.
func (l *Log) open() (old, now *os.File, turns uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, now, err = openLogs(l.path)
	return old, now, l.turns, err
}

func openLogs(path string) (old, now *os.File, err error) {
	if old, err = os.Open(path + oldLog); errors.Is(err, fs.ErrNotExist) {
		old, err = nil, nil
	}
	if err == nil {
		now, err = os.Open(path)
	}
	if err != nil && old != nil {
		old.Close()
		old = nil
	}
	return old, now, err
}

// CopyLog writes what the log of a machine that is gone, or does not answer, holds to w.
func (v *VM) CopyLog(stream string, w io.Writer) error {
	name, ok := logFiles[stream]
	if !ok {
		return errNoLog(stream)
	}
	old, now, err := openLogs(v.Path(name))
	if err != nil {
		return err
	}
	defer now.Close()
	if old != nil {
		_, err = io.Copy(w, old)
		old.Close()
	}
	if err == nil {
		_, err = io.Copy(w, now)
	}
	return err
}
