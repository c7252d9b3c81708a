package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// keepOpen is how many files of threads stay open; those beyond are opened for each reading.
const keepOpen = 4096

// Read reads what an item has done. errors.Is(err, ErrGone) if its threads, or the process that it was found in, have ended. It uses the
// Watcher that Find uses.
func Read(it Item) (Sample, error) { return shared.Read(it) }

// place is whose reading it is.
type place struct{ pid, tid int } // tid 0: of a Whole item

// reading is what the next one of an item builds upon.
type reading struct {
	birth   uint64
	threads map[int]*thread
	ended   counts // of threads that have ended
	links   uint64 // of the task directory: changes with the number of threads
	cpu     int
}

// thread is one thread's files and what they said. A thread that has not run has the same switches.
type thread struct {
	schedstat, stat, status file
	read                    bool // counts and cpu hold something
	counts
	cpu int
}

type counts struct {
	run, wait                      time.Duration
	slices, voluntary, involuntary uint64
}

func (c *counts) add(d counts) {
	c.run += d.run
	c.wait += d.wait
	c.slices += d.slices
	c.voluntary += d.voluntary
	c.involuntary += d.involuntary
}

// file is a file of /proc. An open one can be read again and again, and stays with its thread: it never shows another of the same ID.
type file struct {
	name string
	fd   int // -1: not open
}

// Read is as the function Read.
func (w *Watcher) Read(it Item) (Sample, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !it.Whole && len(it.TIDs) == 0 {
		return Sample{}, fmt.Errorf("reading what %s does: it names no threads", it.Name)
	}
	at := placeOf(it)
	r := w.readings[at]
	if r != nil && r.birth != it.Birth {
		w.drop(at)
		r = nil
	}
	if r == nil {
		r = &reading{birth: it.Birth, threads: map[int]*thread{}, cpu: -1}
		w.readings[at] = r
	}
	s, err := w.read(it, r)
	if err != nil {
		w.drop(at)
		return Sample{}, fmt.Errorf("reading what %s does: %w", it.Name, err)
	}
	return s, nil
}

func placeOf(it Item) place {
	if it.Whole {
		return place{pid: it.PID}
	}
	return place{it.PID, it.TIDs[0]}
}

func (w *Watcher) read(it Item, r *reading) (Sample, error) {
	if err := w.update(it, r); err != nil {
		return Sample{}, err
	}
	sum, most := counts{}, time.Duration(-1)
	w.opened = false
	for tid, t := range r.threads {
		before := t.run
		ran, err := w.readThread(t)
		if errors.Is(err, ErrGone) {
			r.ended.add(t.counts)
			r.links = 0 // look at the threads again next time
			w.closeThread(t)
			delete(r.threads, tid)
			continue
		}
		if err != nil {
			return Sample{}, err
		}
		sum.add(t.counts)
		if ran && t.run-before > most {
			most, r.cpu = t.run-before, t.cpu
		}
	}
	// What was opened by name belongs to the item's process if that lives still.
	if len(r.threads) == 0 || w.opened && it.Birth != 0 && !w.lives(it.PID, it.Birth) {
		return Sample{}, ErrGone
	}
	sum.add(r.ended)
	return Sample{Run: sum.run, Wait: sum.wait, Slices: sum.slices, Voluntary: sum.voluntary, Involuntary: sum.involuntary,
		CPU: r.cpu, Threads: len(r.threads), At: time.Now()}, nil
}

// update makes sure that the threads to read are those of the item.
func (w *Watcher) update(it Item, r *reading) error {
	task := w.proc + "/" + strconv.Itoa(it.PID) + "/task"
	tids := it.TIDs
	if it.Whole {
		var st unix.Stat_t
		if unix.Stat(task, &st) != nil {
			return ErrGone
		}
		if st.Nlink == r.links {
			return nil
		}
		r.links = st.Nlink
		var err error
		if tids, err = numbers(task); err != nil {
			return ErrGone
		}
	} else if len(r.threads) > 0 {
		return nil
	}
	for _, tid := range tids {
		if r.threads[tid] == nil {
			dir := task + "/" + strconv.Itoa(tid) + "/"
			r.threads[tid] = &thread{schedstat: file{dir + "schedstat", -1}, stat: file{dir + "stat", -1}, status: file{dir + "status", -1}}
		}
	}
	return nil
}

// readThread brings a thread's counts up to date and tells whether it has run since. ErrGone if it has ended.
func (w *Watcher) readThread(t *thread) (ran bool, err error) {
	now := t.counts
	b, err := w.content(&t.schedstat)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil {
		if now.run, now.wait, now.slices, err = parseSchedstat(b); err != nil {
			return false, fmt.Errorf("%s: %w", t.schedstat.name, err)
		}
	}
	counted := err == nil && now.slices > 0 // not by a kernel without scheduling statistics
	if counted && t.read && now == t.counts {
		return false, nil
	}
	if b, err = w.content(&t.stat); err != nil {
		return false, gone(err)
	}
	s, err := parseStat(b)
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.stat.name, err)
	}
	if s.state == 'Z' || s.state == 'X' {
		return false, ErrGone
	}
	if b, err = w.content(&t.status); err != nil {
		return false, gone(err)
	}
	if now.voluntary, now.involuntary, err = parseStatus(b); err != nil {
		return false, fmt.Errorf("%s: %w", t.status.name, err)
	}
	if !counted {
		now.run, now.slices = time.Duration(s.ticks)*tick, now.voluntary+now.involuntary
	}
	ran = !t.read || now.run != t.run
	t.counts, t.cpu, t.read = now, s.cpu, true
	return ran, nil
}

// content returns what a file says now, until the next call.
func (w *Watcher) content(f *file) ([]byte, error) {
	fd := f.fd
	if fd < 0 {
		var err error
		if fd, err = unix.Open(f.name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, &fs.PathError{Op: "open", Path: f.name, Err: err}
		}
		w.opened = true
		if w.kept < keepOpen {
			f.fd = fd
			w.kept++
		} else {
			defer unix.Close(fd)
		}
	}
	n, err := unix.Pread(fd, w.buf[:], 0)
	if err != nil {
		return nil, gone(&fs.PathError{Op: "read", Path: f.name, Err: err})
	}
	return w.buf[:n], nil
}

// gone turns the ways in which /proc says that a thread has ended into ErrGone.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return ErrGone
	}
	return err
}

// drop forgets a reading and closes its files.
func (w *Watcher) drop(at place) {
	if r := w.readings[at]; r != nil {
		for _, t := range r.threads {
			w.closeThread(t)
		}
		delete(w.readings, at)
	}
}

func (w *Watcher) closeThread(t *thread) {
	for _, f := range []*file{&t.schedstat, &t.stat, &t.status} {
		if f.fd >= 0 {
			_ = unix.Close(f.fd) // it was only read
			f.fd = -1
			w.kept--
		}
	}
}

// lives tells whether the process with this ID is still the one that started then.
func (w *Watcher) lives(pid int, birth uint64) bool {
	now, _, err := w.birth(pid)
	return err == nil && now == birth
}

// forget drops the readings of processes that have ended.
func (w *Watcher) forget() {
	for at, r := range w.readings {
		p := w.known[at.pid]
		if p == nil || r.birth != 0 && r.birth != p.birth {
			w.drop(at)
		}
	}
}

// Close closes the files that the Watcher keeps open. It can still be used.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at := range w.readings {
		w.drop(at)
	}
}
