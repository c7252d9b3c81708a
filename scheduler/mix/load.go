package mix

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what a guest does.
type Kind string

// The kinds of guest.
const (
	Hog    Kind = "hog"    // computes without end
	Lock   Kind = "lock"   // computes 40 us, holds a spinlock that its gang shares for 20 us
	Ping   Kind = "ping"   // computes 20 us, sends a byte to its peer, waits for the answer
	Pong   Kind = "pong"   // answers after 20 us of computing
	Server Kind = "server" // sleeps 2 to 5 ms, then computes 200 us
)

// What the loads do, in turns of spin; a turn is a multiplication and takes about 4 cycles.
const (
	microsecond = 650 // turns, at 2.6 GHz
	hogUnit     = 50 * microsecond
	lockHeld    = 20 * microsecond
	lockFree    = 40 * microsecond
	pingWork    = 20 * microsecond
	serverWork  = 200 * microsecond
	serverSleep = 2 * time.Millisecond // and up to 3 ms more
)

// pageSize is the size of the file that the guests of a mix share. A gang's lock is the 32-bit word at 64 times its number.
const pageSize = 4096

// The bytes on a guest's standard input: the host's start signal, and a message of its peer.
const (
	startByte   = 's'
	messageByte = 'm'
)

// sink keeps the compiler from leaving the computing out.
var sink uint64

func spin(turns int) {
	x := sink
	for ; turns > 0; turns-- {
		x = x*6364136223846793005 + 1442695040888963407
	}
	sink = x
}

// A load is the program in a guest.
type load struct {
	kind   Kind
	length time.Duration
	page   string
	gang   int
	base   time.Time
	report Report
}

func (l *load) now() time.Duration { return time.Since(l.base) }

// Load is the program in a guest of a mix: its arguments come from Guest.args. It says on standard error that it is ready, waits for the
// start signal on standard input, does what its kind says for its time and prints a Report on standard error. It returns an exit code.
func Load(args []string) int {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	l, err := parseLoad(args)
	if err == nil {
		err = l.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mix:", err)
		return 1
	}
	return 0
}

func parseLoad(args []string) (*load, error) {
	l := &load{}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		var err error
		switch key {
		case "kind":
			l.kind = Kind(value)
		case "length":
			l.length, err = time.ParseDuration(value)
		case "page":
			l.page = value
		case "gang":
			l.gang, err = strconv.Atoi(value)
		default:
			return nil, fmt.Errorf("load: unknown argument %q", a)
		}
		if err != nil {
			return nil, fmt.Errorf("load: %s: %w", a, err)
		}
	}
	if l.length <= 0 || l.length > mostLength {
		return nil, fmt.Errorf("load: length %v: it is more than 0, at most %v", l.length, mostLength)
	}
	if l.gang < 0 || l.gang >= pageSize/64 {
		return nil, fmt.Errorf("load: gang %d: gangs are numbered 0 to %d", l.gang, pageSize/64-1)
	}
	return l, nil
}

func (l *load) run() error {
	loop := map[Kind]func(){Hog: l.hog, Ping: l.ping, Pong: l.pong, Server: l.server}[l.kind]
	if l.kind == Lock {
		lock, err := mapWord(l.page, 64*l.gang)
		if err != nil {
			return err
		}
		loop = func() { l.lock(lock) }
	}
	if loop == nil {
		return fmt.Errorf("load: unknown kind %q", l.kind)
	}
	if _, err := os.Stderr.WriteString(readyLine + "\n"); err != nil {
		return fmt.Errorf("load: say ready: %w", err)
	}
	if b, err := receive(); err != nil || b != startByte {
		return fmt.Errorf("load: no start signal but %q: %w", b, err)
	}
	l.base = time.Now()
	loop()
	l.report.Kind, l.report.Elapsed = l.kind, l.now()
	return l.report.write(os.Stderr)
}

func (l *load) hog() {
	for l.now() < l.length {
		spin(hogUnit)
		l.report.Ops++
	}
}

// lock measures from the first look at the lock to its release. It gives up if a peer that died holds it to the end.
func (l *load) lock(lock *atomic.Uint32) {
	for l.now() < l.length {
		spin(lockFree)
		begin := l.now()
		for turn := 1; !lock.CompareAndSwap(0, 1); turn++ {
			for ; lock.Load() != 0; turn++ {
				if turn%1024 == 0 && l.now() > l.length {
					return
				}
			}
		}
		spin(lockHeld)
		lock.Store(0)
		l.report.Times.Add(l.now() - begin)
		l.report.Ops++
	}
}

func (l *load) ping() {
	for l.now() < l.length {
		spin(pingWork)
		begin := l.now()
		send()
		if _, err := receive(); err != nil {
			return
		}
		l.report.Times.Add(l.now() - begin)
		l.report.Ops++
	}
}

// pong ends when its peer has.
func (l *load) pong() {
	for {
		switch b, err := receive(); {
		case err != nil:
			return
		case b == messageByte:
			spin(pingWork)
			send()
			l.report.Ops++
		}
	}
}

// server measures how much later than asked it wakes up.
func (l *load) server() {
	random := uint64(os.Getpid())*0x9E3779B97F4A7C15 + uint64(l.base.UnixNano())
	for l.now() < l.length {
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		sleep := serverSleep + time.Duration(random%uint64(3*time.Millisecond))
		due := l.now() + sleep
		pause(unix.NsecToTimespec(int64(sleep)))
		l.report.Times.Add(l.now() - due)
		spin(serverWork)
		l.report.Ops++
	}
}
