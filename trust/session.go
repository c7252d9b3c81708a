package trust

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/tpm"
)

// session is one connection: a process that runs a VM, or a command.
type session struct {
	k   *keeper
	c   *net.UnixConn
	pid int32
	who string // the process that asks, as the kernel says
	vm  string
	run int // Launch records without a Stop
}

// session answers a connection until it ends.
func (k *keeper) session(c *net.UnixConn) {
	s := &session{k: k, c: c}
	err := s.begin()
	for err == nil {
		err = s.next()
	}
	if s.run > 0 {
		// Whoever was to say how the guest ended did not: the process was killed, or fell.
		_ = s.add(auditchain.Record{Kind: auditchain.Fault, Verb: "vanished", Detail: "the process of the VM ended without saying how the guest did"})
	}
}

func (s *session) begin() error {
	raw, err := s.c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	if uid := os.Geteuid(); int(cred.Uid) != uid && cred.Uid != 0 {
		err := fmt.Errorf("user %d is not the keeper's", cred.Uid)
		return errors.Join(err, sendJSON(s.c, msgFailed, failure{err.Error()}, nil))
	}
	name := strconv.Itoa(int(cred.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	s.pid, s.who = cred.Pid, fmt.Sprintf("%s pid %d", name, cred.Pid)
	kind, body, files, err := receive(s.c, maxRequest)
	closeAll(files)
	if err == nil && kind != msgHello {
		err = errors.New("no hello")
	}
	if err != nil {
		return err
	}
	h, err := decode[hello](body)
	if err != nil {
		return err
	}
	s.vm = h.VM
	return sendJSON(s.c, msgHello, struct{}{}, nil)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// next takes one message. An error ends the connection.
func (s *session) next() error {
	kind, body, files, err := receive(s.c, maxRequest)
	defer closeAll(files)
	if err != nil {
		return err
	}
	if kind == msgRecords {
		return s.records(body)
	}
	reply, err := s.answer(kind, body, files)
	if err != nil {
		return sendJSON(s.c, msgFailed, failure{err.Error()}, nil)
	}
	return sendJSON(s.c, kind, reply, nil)
}

func (s *session) answer(kind byte, body []byte, files []*os.File) (any, error) {
	switch kind {
	case msgMeasure:
		reply, err := s.measure(body, files)
		if err != nil {
			err = errors.Join(err, s.add(auditchain.Record{Kind: auditchain.Fault, Verb: "measure", Result: 1, Detail: err.Error()}))
		}
		return reply, err
	case msgFlush:
		return struct{}{}, s.k.log.Flush()
	case msgQuote:
		q, err := decode[quoteRequest](body)
		if err != nil {
			return nil, err
		}
		return s.k.quote(q.Nonce)
	case msgAnchor:
		blocks, hash, err := s.k.anchor.Last()
		return Anchored{blocks, hash}, err
	}
	return nil, fmt.Errorf("request %q is not known", kind)
}

func (s *session) measure(body []byte, files []*os.File) (measuredReply, error) {
	wire, err := decode[[]wireItem](body)
	if err != nil {
		return measuredReply{}, err
	}
	var items []Item
	for _, w := range wire {
		it := Item{What: tpm.What(w.What), Name: w.Name, Digest: w.Digest}
		if w.What == string(tpm.Binary) || w.What == string(tpm.AuditRoot) {
			return measuredReply{}, fmt.Errorf("measure %s: that is the keeper's business", w.What)
		}
		if w.File {
			if len(files) == 0 {
				return measuredReply{}, errors.New("fewer files than were announced")
			}
			it.File, it.id, files = files[0], w.ID.identity(), files[1:]
		}
		items = append(items, it)
	}
	binary, err := os.Open(fmt.Sprintf("/proc/%d/exe", s.pid))
	if err != nil {
		return measuredReply{}, fmt.Errorf("measure the binary of the process that asks: %w", err)
	}
	defer binary.Close()
	return s.k.measure(s.vm, binary, items)
}

// records adds a batch of records.
func (s *session) records(body []byte) error {
	for len(body) > 0 {
		if len(body) < 2 || len(body)-2 < int(binary.BigEndian.Uint16(body)) {
			return errors.New("a record ends too early")
		}
		n := 2 + int(binary.BigEndian.Uint16(body))
		var r auditchain.Record
		if err := r.UnmarshalBinary(body[2:n]); err != nil {
			return err
		}
		if err := s.add(r); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// add puts a record of this connection into the log. A record that was dropped is counted by the log itself.
func (s *session) add(r auditchain.Record) error {
	switch r.Kind {
	case auditchain.Launch:
		s.run++
	case auditchain.Stop:
		s.run--
	}
	if s.vm != "" {
		r.VM = s.vm
	}
	if r.Kind != auditchain.Syscall {
		r.Who = s.who
	}
	if now := time.Now().UnixNano(); r.Time <= 0 || r.Time > now {
		r.Time = now
	}
	_, err := s.k.log.Add(r)
	if errors.Is(err, auditchain.ErrDropped) {
		return nil
	}
	return err
}
