// Package tapnet is a TAP interface of the host as a network for one guest: what the guest sends comes out of the interface, and what the host
// sends into it goes to the guest, with segmentation and checksums left to whoever can do them best.
//
// Frames go between the descriptors of /dev/net/tun and the caller's memory; nothing is looked at or kept here. Addresses, bridges and routes of the
// interface are the administrator's.
package tapnet

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/vnethdr"
)

// MaxPairs is how many queues a TAP can have here.
const MaxPairs = 8

// Errors of Receive and Transmit.
var (
	ErrStopped = errors.New("tapnet: the interface is stopped")
	ErrLost    = errors.New("tapnet: the interface is gone")
)

// Config says which interface.
type Config struct {
	Name  string // of an interface that exists, or is made; "" lets the kernel find one. It may hold one %d.
	Pairs int    // of queues, 1 to MaxPairs; 0 means 1. An existing interface for more than one must have been made with multi_queue.
}

// TAP is an open interface. There may be one Receive and one Transmit at a time for each queue; the other methods may be called from any goroutine.
type TAP struct {
	name   string
	mtu    int
	queues []*queue

	mu      sync.Mutex
	started bool // guarded by mu
	pairs   int  // in use; guarded by mu
}

// queue is a descriptor of the interface.
type queue struct {
	file *os.File
	conn syscall.RawConn
}

// Open opens an interface. One that did not exist is made, which needs CAP_NET_ADMIN, brought up, and goes with the last descriptor.
// One that exists needs no privilege if it was made for the user, as by "ip tuntap add NAME mode tap user USER".
func Open(config Config) (*TAP, error) {
	if config.Pairs == 0 {
		config.Pairs = 1
	}
	if config.Pairs < 1 || config.Pairs > MaxPairs {
		return nil, fmt.Errorf("tapnet: %d pairs of queues; 1 to %d are possible", config.Pairs, MaxPairs)
	}
	t := &TAP{name: config.Name, pairs: config.Pairs}
	err := t.open(config.Pairs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tapnet: opening the interface %q: %w", config.Name, err), t.Close())
	}
	return t, nil
}

// open opens all queues and brings the interface up, if that is ours to do.
func (t *TAP) open(pairs int) error {
	_, err := flags(t.name)
	exists := err == nil
	for range pairs {
		if err := t.openQueue(pairs); err != nil {
			return err
		}
	}
	if !exists {
		if err := up(t.name); err != nil {
			return fmt.Errorf("bringing it up: %w", err)
		}
	}
	t.mtu, err = mtu(t.name)
	return err
}

// openQueue adds a queue.
func (t *TAP) openQueue(pairs int) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(t.name)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("the name: %w", err)
	}
	const kind = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	try := []uint16{kind, kind | unix.IFF_MULTI_QUEUE} // an existing one has to be asked for as it was made
	if pairs > 1 {
		try = try[1:]
	}
	for _, f := range try {
		req.SetUint16(f)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != unix.EINVAL {
			break
		}
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnethdr.Size)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("%w%s", err, advice(err))
	}
	t.name = req.Name()
	// Only now is there something to poll.
	file := os.NewFile(uintptr(fd), "/dev/net/tun")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return err
	}
	t.queues = append(t.queues, &queue{file, conn})
	return nil
}

// advice says what to do about an error of TUNSETIFF.
func advice(err error) string {
	switch err {
	case unix.EPERM:
		return "; let root make it for you: ip tuntap add dev NAME mode tap user YOU"
	case unix.EBUSY:
		return "; somebody else has it open"
	case unix.EINVAL:
		return "; it is no TAP interface, or, for several queues, was made without multi_queue"
	}
	return ""
}

// Name is the interface's.
func (t *TAP) Name() string { return t.name }

// MTU is what the interface had when it was opened, in bytes.
func (t *TAP) MTU() int { return t.mtu }

// MaxPairs says how many pairs of queues there are.
func (t *TAP) MaxPairs() int { return len(t.queues) }

// Offloads says what may be left undone in frames from and for the guest.
func (t *TAP) Offloads() (take, give vnethdr.Offloads) {
	const all = vnethdr.Csum | vnethdr.TSO4 | vnethdr.TSO6
	return all, all
}

// staleFrames bounds those that Start drops: more than a queue holds by default (txqueuelen).
const staleFrames = 2000

// Start lets frames pass on the first queue. The guest does the given offloads.
func (t *TAP) Start(give vnethdr.Offloads) error {
	if err := t.SetPairs(1); err != nil {
		return err
	}
	var f int
	for o, bit := range map[vnethdr.Offloads]int{vnethdr.Csum: unix.TUN_F_CSUM, vnethdr.TSO4: unix.TUN_F_TSO4, vnethdr.TSO6: unix.TUN_F_TSO6} {
		if give&o != 0 {
			f |= bit
		}
	}
	q := t.queues[0]
	err := q.control(func(fd int) error {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, f); err != nil {
			return err
		}
		var b [1]byte // frames are cut
		for range staleFrames {
			if _, err := unix.Read(fd, b[:]); err != nil {
				break
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s: setting offloads: %w", ErrLost, t.name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.queues {
		if err := q.file.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrLost, t.name, err)
		}
	}
	t.started = true
	return nil
}

// Stop ends all calls of Receive, until Start.
func (t *TAP) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started = false
	for _, q := range t.queues {
		q.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// SetPairs says how many queues, from the first on, the guest uses.
func (t *TAP) SetPairs(n int) error {
	if n < 1 || n > len(t.queues) {
		return fmt.Errorf("tapnet: %d pairs of queues of %d", n, len(t.queues))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, q := range t.queues {
		f := uint16(unix.IFF_DETACH_QUEUE)
		switch {
		case i < n && i >= t.pairs:
			f = unix.IFF_ATTACH_QUEUE
		case i < n || i >= t.pairs:
			continue
		}
		req, err := unix.NewIfreq(t.name)
		if err != nil {
			return err
		}
		req.SetUint16(f)
		if err := q.control(func(fd int) error { return unix.IoctlIfreq(fd, unix.TUNSETQUEUE, req) }); err != nil {
			return fmt.Errorf("%w: %s: putting queue %d to use: %w", ErrLost, t.name, i, err)
		}
	}
	t.pairs = n
	return nil
}

// Transmit sends a frame of the guest, with its header. The kernel drops what it does not like; only a lost interface is an error.
func (t *TAP) Transmit(pair int, views [][]byte) error {
	var err error
	werr := t.queues[pair].conn.Write(func(fd uintptr) bool {
		for {
			if _, err = unix.Writev(int(fd), views); err != unix.EINTR {
				return true
			}
		}
	})
	if errors.Is(werr, os.ErrClosed) || err == unix.EBADFD {
		return fmt.Errorf("%w: %s", ErrLost, t.name)
	}
	return nil
}

// Receive waits for a frame and puts it into views behind its header. Before it waits it calls idle. A queue that is not in use gets
// none.
func (t *TAP) Receive(pair int, views [][]byte, idle func()) (int, error) {
	for {
		t.mu.Lock()
		started := t.started
		t.mu.Unlock()
		if !started {
			return 0, ErrStopped
		}
		var n int
		var err error
		rerr := t.queues[pair].conn.Read(func(fd uintptr) bool {
			for {
				n, err = unix.Readv(int(fd), views)
				switch err {
				case unix.EINTR:
				case unix.EAGAIN:
					idle()
					return false
				default:
					return true
				}
			}
		})
		switch {
		case errors.Is(rerr, os.ErrDeadlineExceeded):
			continue // stopped, and perhaps started again
		case rerr != nil:
			return 0, fmt.Errorf("%w: %s: %w", ErrLost, t.name, rerr)
		case err == nil:
			return n, nil
		default:
			return 0, fmt.Errorf("%w: %s: reading: %w", ErrLost, t.name, err)
		}
	}
}

// Close closes the interface, after Stop.
func (t *TAP) Close() error {
	t.Stop()
	var errs []error
	for _, q := range t.queues {
		errs = append(errs, q.file.Close())
	}
	return errors.Join(errs...)
}

// control calls f with the descriptor.
func (q *queue) control(f func(fd int) error) error {
	var err error
	if cerr := q.conn.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
