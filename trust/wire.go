package trust

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A message is its length in 4 bytes (big-endian), its kind in one, and so many bytes; descriptors come with its first byte. All are JSON,
// but for records: each a length of 2 bytes and the record's encoding. Whoever connects says hello first. Everything but hello and records is answered, by
// the same kind or a failure.
const (
	msgHello   = 'H' // hello
	msgMeasure = 'M' // []wireItem and the files -> measuredReply
	msgRecords = 'R' // records
	msgFlush   = 'F' // -> {}, when all records that were sent before are on disk
	msgQuote   = 'Q' // quoteRequest -> tpm.Evidence
	msgAnchor  = 'A' // -> Anchored
	msgFailed  = 'E' // failure
)

const (
	headSize   = 5
	maxRequest = 1 << 20
	maxReply   = 128 << 20 // evidence with a full event log
	maxFiles   = 64
)

type hello struct {
	VM string `json:"vm"` // of which all records are; "" for none
}

type wireItem struct {
	What   string   `json:"what"`
	Name   string   `json:"name"`
	File   bool     `json:"file"` // the next descriptor
	ID     wireID   `json:"id,omitzero"`
	Digest [32]byte `json:"digest"`
}

// wireID is an identity.
type wireID struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime [2]int64
}

func (i identity) wire() wireID {
	return wireID{i.dev, i.ino, i.size, [2]int64{i.mtime.Sec, i.mtime.Nsec}, [2]int64{i.ctime.Sec, i.ctime.Nsec}}
}

func (w wireID) identity() identity {
	return identity{w.Dev, w.Ino, w.Size, syscall.Timespec{Sec: w.Mtime[0], Nsec: w.Mtime[1]}, syscall.Timespec{Sec: w.Ctime[0], Nsec: w.Ctime[1]}}
}

type measuredReply struct {
	List     []Measured `json:"list"`
	Hashing  int64      `json:"hashing_ns"`
	TPM      int64      `json:"tpm_ns"`
	Software bool       `json:"software"`
}

type quoteRequest struct {
	Nonce []byte `json:"nonce"`
}

// Anchored is what the TPM counts of the audit log.
type Anchored struct {
	Blocks uint64   `json:"blocks"`
	Hash   [32]byte `json:"hash"`
}

type failure struct {
	Error string `json:"error"`
}

// send sends one message.
func send(c *net.UnixConn, kind byte, body []byte, files []*os.File) error {
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), kind)
	if len(files) == 0 {
		_, err := c.Write(append(head, body...))
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	n, _, err := c.WriteMsgUnix(head, unix.UnixRights(fds...), nil)
	if err == nil {
		_, err = c.Write(append(head[n:], body...))
	}
	return err
}

func sendJSON(c *net.UnixConn, kind byte, v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return send(c, kind, b, files)
}

// receive reads one message. The files are the caller's, also beside an error.
func receive(c *net.UnixConn, limit int) (kind byte, body []byte, files []*os.File, err error) {
	var head [headSize]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], oob)
	if oobn > 0 {
		files, err = filesOf(oob[:oobn], err)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("more than %d files came with a message", maxFiles)
	}
	if err == nil {
		_, err = io.ReadFull(c, head[n:])
	}
	if err != nil {
		return 0, nil, files, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if uint64(size) > uint64(limit) {
		return 0, nil, files, fmt.Errorf("a message of %d bytes; at most %d are allowed", size, limit)
	}
	body = make([]byte, size)
	_, err = io.ReadFull(c, body)
	return head[4], body, files, err
}

// filesOf takes descriptors out of a control message.
func filesOf(oob []byte, err error) ([]*os.File, error) {
	messages, perr := unix.ParseSocketControlMessage(oob)
	var files []*os.File
	for _, m := range messages {
		fds, ferr := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed file"))
		}
		perr = errors.Join(perr, ferr)
	}
	return files, errors.Join(err, perr)
}
