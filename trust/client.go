package trust

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/tpm"
)

// ErrNoKeeper says that no keeper runs.
var ErrNoKeeper = errors.New("no keeper runs")

// Client is a connection to the keeper. Its methods may be called by any goroutine.
type Client struct {
	c    *net.UnixConn
	lost chan struct{} // closed when records cannot be sent any more

	asking sync.Mutex // a request and its answer

	mu      sync.Mutex
	changed sync.Cond
	pending []byte // records that wait to be sent
	sending bool   // the writer has some
	hurry   bool   // somebody waits for the writer
	closed  bool
	err     error

	wake   chan struct{} // there is something for the writer
	rush   chan struct{} // it is not to wait for more
	writer sync.WaitGroup
}

// Connect reaches the state's keeper for a VM; "" for none. If there is none it calls start, which returns when one runs; nil: the
// error is ErrNoKeeper.
func Connect(state State, vm string, start func() error) (*Client, error) {
	c, err := state.dial(vm)
	if errors.Is(err, ErrNoKeeper) && start != nil {
		c, err = state.started(vm, start)
	}
	if err != nil {
		return nil, err
	}
	t := &Client{c: c, lost: make(chan struct{}), wake: make(chan struct{}, 1), rush: make(chan struct{}, 1)}
	t.changed.L = &t.mu
	t.writer.Go(t.write)
	return t, nil
}

// dial connects and says hello.
func (s State) dial(vm string) (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path(socketFile), Net: "unix"})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%s: %w", s.Dir, ErrNoKeeper)
	}
	if err != nil {
		return nil, err
	}
	err = sendJSON(c, msgHello, hello{vm}, nil)
	var body []byte
	kind := byte(msgHello)
	if err == nil {
		var files []*os.File
		kind, body, files, err = receive(c, maxRequest)
		closeAll(files)
	}
	switch {
	case err != nil: // it is just ending
		err = fmt.Errorf("%s: %w: %w", s.Dir, ErrNoKeeper, err)
	case kind != msgHello:
		f, derr := decode[failure](body)
		err = errors.Join(derr, errors.New(f.Error))
	default:
		return c, nil
	}
	return nil, errors.Join(err, c.Close())
}

// started lets one process at a time start a keeper.
func (s State) started(vm string, start func() error) (*net.UnixConn, error) {
	if err := s.make(); err != nil {
		return nil, err
	}
	lock, err := s.lock(startFile, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	c, err := s.dial(vm)
	if !errors.Is(err, ErrNoKeeper) {
		return c, err
	}
	if err := start(); err != nil {
		return nil, err
	}
	return s.dial(vm)
}

// gather is how long a record waits for others before they are sent together, unless somebody flushes. Each time, threads wake here and in
// the keeper, and that is what an audit costs: 20,000 records in 5 s cost the guest's process 0.45 s of CPU with 5 ms, with 25 ms nothing
// that could be measured.
const gather = 25 * time.Millisecond

// maxPending bounds what waits to be sent, in bytes: who records more waits.
const maxPending = 512 << 10

// Record sends a record; how it ends up is the log's business. It waits while the keeper does not keep up. After an error nothing
// is recorded any more, and Lost is closed.
func (t *Client) Record(r auditchain.Record) error {
	r = r.Clean()
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil && len(t.pending) >= maxPending {
		t.changed.Wait()
	}
	if t.err != nil {
		return t.err
	}
	first := len(t.pending) == 0
	at := len(t.pending)
	b, err := r.AppendBinary(append(t.pending, 0, 0))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	t.pending = b
	if first {
		poke(t.wake)
	}
	return nil
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// write sends what waits, until the client is closed or the keeper gone.
func (t *Client) write() {
	timer := time.NewTimer(0)
	var batch []byte
	for {
		<-t.wake
		t.mu.Lock()
		hurry := t.hurry || t.closed
		t.mu.Unlock()
		if !hurry {
			timer.Reset(gather)
			select {
			case <-timer.C:
			case <-t.rush:
			}
		}
		t.mu.Lock()
		batch, t.pending = t.pending, batch[:0]
		t.sending = len(batch) > 0
		t.changed.Broadcast()
		t.mu.Unlock()
		var err error
		if len(batch) > 0 {
			err = send(t.c, msgRecords, batch, nil)
		}
		t.mu.Lock()
		t.sending = false
		if err != nil {
			t.fail(err)
		}
		t.changed.Broadcast()
		end := t.err != nil || t.closed && len(t.pending) == 0
		t.mu.Unlock()
		if end {
			return
		}
	}
}

// fail remembers why nothing can be recorded any more. The lock is held.
func (t *Client) fail(err error) {
	if t.err == nil {
		t.err = fmt.Errorf("the audit log is gone: %w", err)
		close(t.lost)
	}
}

// Lost is closed when records cannot be sent any more: what was to be audited must end.
func (t *Client) Lost() <-chan struct{} { return t.lost }

// drain waits until all records are sent.
func (t *Client) drain() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hurry = true
	for t.err == nil && (t.sending || len(t.pending) > 0) {
		poke(t.wake)
		poke(t.rush)
		t.changed.Wait()
	}
	t.hurry = false
	return t.err
}

// ask sends a request and reads its answer.
func (t *Client) ask(kind byte, request any, files []*os.File, reply any) error {
	t.asking.Lock()
	defer t.asking.Unlock()
	if err := t.drain(); err != nil {
		return err
	}
	err := sendJSON(t.c, kind, request, files)
	var got byte
	var body []byte
	if err == nil {
		var more []*os.File
		got, body, more, err = receive(t.c, maxReply)
		closeAll(more)
	}
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fail(err)
		return t.err
	}
	if got == msgFailed {
		f, err := decode[failure](body)
		return errors.Join(err, errors.New(f.Error))
	}
	if got != kind {
		return fmt.Errorf("the keeper answers %q to %q", got, kind)
	}
	return json.Unmarshal(body, reply)
}

// Flush returns when all that was recorded before is on disk.
func (t *Client) Flush() error { return t.ask(msgFlush, struct{}{}, nil, &struct{}{}) }

// Launch is what Measure found.
type Launch struct {
	List         []Measured // QENEX's binary first
	Hashing, TPM time.Duration
	Software     bool // the TPM is a swtpm
}

// Measure hashes the items, puts them into the PCRs, and returns their digests. A file that has changed since OpenItem is an error.
func (t *Client) Measure(items []Item) (*Launch, error) {
	var wire []wireItem
	var files []*os.File
	var local hasher
	for _, it := range items {
		w := wireItem{What: string(it.What), Name: it.Name}
		if it.File != nil {
			w.File, w.ID = true, it.id.wire()
			files = append(files, it.File)
		} else {
			w.Digest, _ = local.digest(it) // only of files it can fail
		}
		wire = append(wire, w)
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("measure %d files: at most %d can be", len(files), maxFiles)
	}
	var r measuredReply
	if err := t.ask(msgMeasure, wire, files, &r); err != nil {
		return nil, err
	}
	return &Launch{r.List, time.Duration(r.Hashing), time.Duration(r.TPM), r.Software}, nil
}

// Digests hashes a launch without a keeper, for a guest's own TPM.
func Digests(items []Item) ([]Measured, error) {
	self, err := OpenItem(tpm.Binary, "/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.File.Close()
	self.Name = "qenex"
	var h hasher
	var list []Measured
	for _, it := range append([]Item{self}, items...) {
		sum, err := h.digest(it)
		if err != nil {
			return nil, err
		}
		list = append(list, Measured{it.What, eventName(it.Name), sum})
	}
	return list, nil
}

// Quote asks for evidence of all that was measured and recorded, for a verifier who sent the nonce.
func (t *Client) Quote(nonce []byte) (*tpm.Evidence, error) {
	var e tpm.Evidence
	return &e, t.ask(msgQuote, quoteRequest{nonce}, nil, &e)
}

// Anchored asks how many of the audit log's blocks the TPM counts.
func (t *Client) Anchored() (Anchored, error) {
	var a Anchored
	return a, t.ask(msgAnchor, struct{}{}, nil, &a)
}

// Close sends what waits, and ends the connection.
func (t *Client) Close() error {
	err := t.drain()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	poke(t.wake)
	t.writer.Wait()
	return errors.Join(err, t.c.Close())
}
