package trust

import (
	"context"
	"crypto/sha256"
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

// Options are how a keeper works.
type Options struct {
	Idle time.Duration // it ends when nobody was connected for so long; 0: it does not
	Drop bool          // when the disk does not keep up, drop records, which a gap record counts; else guests wait
	TPM  string        // a TPM device; "": the host's, or a swtpm
	Wait bool          // for the end of a keeper that has the state already
}

// ErrRunning says that the state has a keeper already.
var ErrRunning = errors.New("another keeper has this state")

// blockInterval is how often the audit log's records become a block, which costs the TPM three commands and the event log 400 bytes.
const blockInterval = 5 * time.Second

// commitInterval is how long a record may wait for others before all are written to the disk together, which takes several fsyncs. Who
// cannot wait says so (Client.Flush).
const commitInterval = 100 * time.Millisecond

// keeper answers what is asked of TPM and log.
type keeper struct {
	state    State
	options  Options
	tpm      *tpm.TPM
	measured *tpm.Measurements
	anchor   *tpm.Anchor
	log      *auditchain.Log
	hasher   hasher

	measuring sync.Mutex // one launch after the other, in PCRs and event log

	mu    sync.Mutex
	conns map[*net.UnixConn]bool // protected by mu
	idle  *time.Timer            // runs while conns is empty

	sessions sync.WaitGroup
}

// Serve keeps the state until ctx is done, or nobody has needed it for Options.Idle. It calls ready once it answers. What was recorded
// is on disk, and sealed, when it returns.
func Serve(ctx context.Context, state State, options Options, ready func(software bool)) (err error) {
	if err := state.make(); err != nil {
		return err
	}
	how := unix.LOCK_EX
	if !options.Wait {
		how |= unix.LOCK_NB
	}
	lock, err := state.lock(lockFile, how)
	if err != nil {
		return err
	}
	defer lock.Close()
	k := &keeper{state: state, options: options, conns: map[*net.UnixConn]bool{}}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := k.open(); err != nil {
		return err
	}
	path := state.path(socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer k.sessions.Wait()
	defer k.hangUp()
	if options.Idle > 0 {
		k.idle = time.AfterFunc(options.Idle, cancel)
		defer k.idle.Stop()
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	ready(k.tpm.Software())
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("trust: accept: %w", err)
		}
		k.enter(c)
		k.sessions.Go(func() {
			defer k.leave(c)
			k.session(c)
		})
	}
}

// lock locks a file of the state.
func (s State) lock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if err == unix.EWOULDBLOCK {
		return nil, fmt.Errorf("%s: %w", s.Dir, ErrRunning)
	}
	return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// open opens TPM and log.
func (k *keeper) open() (err error) {
	key, secret, err := k.state.key()
	if err != nil {
		return err
	}
	if k.options.TPM != "" {
		k.tpm, err = tpm.OpenDevice(k.options.TPM)
	} else {
		k.tpm, err = tpm.Open(k.state.path(tpmDir))
	}
	if err != nil {
		return err
	}
	if k.measured, err = k.tpm.Measure(); err != nil {
		return err
	}
	if k.anchor, err = k.tpm.NewAnchor(0, secret, k.measured); err != nil {
		return err
	}
	config := auditchain.Config{Key: key, Anchor: k.anchor, CommitInterval: commitInterval, BlockInterval: blockInterval}
	if k.options.Drop {
		config.Policy = auditchain.Drop
	}
	if k.log, err = auditchain.Open(k.state.Log(), config); err != nil {
		return err
	}
	return k.writeEventLog()
}

// key is the log's, which is made if need be, and the secret of the TPM's anchor, which comes from it.
func (s State) key() (key *auditchain.Key, secret []byte, err error) {
	path := s.path(keyFile)
	key, err = auditchain.LoadKey(path)
	if errors.Is(err, os.ErrNotExist) {
		host, herr := os.Hostname()
		if herr != nil {
			return nil, nil, herr
		}
		key, err = auditchain.CreateKey(path, host+"/qenex/audit")
	}
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(append([]byte("qenex-anchor/v1\x00"), text...))
	return key, sum[:], os.WriteFile(s.path(publicFile), []byte(key.Public().String()), 0o644)
}

// writeEventLog replaces the file eventlog.
func (k *keeper) writeEventLog() error {
	part := k.state.path(eventFile + ".part")
	if err := os.WriteFile(part, k.measured.Log(), 0o600); err != nil {
		return err
	}
	return os.Rename(part, k.state.path(eventFile))
}

// close gives back what open took, as far as it got.
func (k *keeper) close() error {
	var errs []error
	if k.log != nil {
		errs = append(errs, k.log.Close())
	}
	if k.measured != nil {
		errs = append(errs, k.writeEventLog())
	}
	if k.tpm != nil {
		errs = append(errs, k.tpm.Close())
	}
	return errors.Join(errs...)
}

func (k *keeper) enter(c *net.UnixConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[c] = true
	if k.idle != nil {
		k.idle.Stop()
	}
}

func (k *keeper) leave(c *net.UnixConn) {
	c.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
	if k.idle != nil && len(k.conns) == 0 {
		k.idle.Reset(k.options.Idle)
	}
}

// lastAnswer is how long a client may take to read an answer when the keeper ends.
const lastAnswer = 5 * time.Second

// hangUp ends all connections, when what was sent on them has been read.
func (k *keeper) hangUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.SetWriteDeadline(time.Now().Add(lastAnswer)) // it fails if the connection is closed,
		_ = c.CloseRead()                                  // and so does this
	}
}

// measure hashes a launch and puts it into the PCRs.
func (k *keeper) measure(vm string, binary *os.File, items []Item) (reply measuredReply, err error) {
	began := time.Now()
	id, err := identify(binary)
	if err != nil {
		return reply, err
	}
	all := append([]Item{{What: tpm.Binary, Name: "qenex", File: binary, id: id}}, items...)
	for _, it := range all {
		m := Measured{What: it.What, Name: eventName(it.Name)}
		if m.Digest, err = k.hasher.digest(it); err != nil {
			return reply, err
		}
		reply.List = append(reply.List, m)
	}
	hashed := time.Now()
	reply.Hashing = hashed.Sub(began).Nanoseconds()
	k.measuring.Lock()
	defer k.measuring.Unlock()
	for _, m := range reply.List {
		if err := k.measured.Digest(m.What, eventName(vm)+":"+m.Name, m.Digest); err != nil {
			return reply, err
		}
	}
	reply.TPM, reply.Software = time.Since(hashed).Nanoseconds(), k.tpm.Software()
	return reply, k.writeEventLog()
}

// quote quotes the PCRs, and with them the audit log as it is on disk.
func (k *keeper) quote(nonce []byte) (*tpm.Evidence, error) {
	if _, err := k.log.Seal(); err != nil {
		return nil, err
	}
	claims, err := os.ReadFile(k.state.path(logDir + "/checkpoint"))
	if err != nil {
		return nil, err
	}
	return k.measured.Quote(nonce, claims)
}

func decode[T any](body []byte) (v T, err error) {
	if err = json.Unmarshal(body, &v); err != nil {
		err = fmt.Errorf("a malformed request: %w", err)
	}
	return v, err
}
