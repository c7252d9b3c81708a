package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// errDigest says that a complete download is not the file that was asked for.
var errDigest = errors.New("SHA-256 digest does not match")

// errStalled says that the server stopped sending.
var errStalled = errors.New("the server sends nothing more")

// stall is how long a server may send nothing.
var stall = time.Minute

// fetch downloads url to name: into name.part, which a later call continues, then renamed once its SHA-256 is digest
// (hex). step is told how much of how much is there; total is -1 where the server does not say.
func fetch(ctx context.Context, url, digest, name string, step func(have, total int64)) error {
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := rest(ctx, url, f, step); err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", part, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		os.Remove(part)
		return fmt.Errorf("download %s: %w: got %s, want %s", url, errDigest, got, digest)
	}
	return os.Rename(part, name)
}

// rest appends to f what of url it has not got yet. A server that cannot continue sends everything again.
func rest(ctx context.Context, url string, f *os.File, step func(have, total int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer patience.Stop()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := http.DefaultClient.Do(req)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable: // nothing is left; the digest will tell
		return nil
	case http.StatusOK:
		have = 0
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	default:
		return errors.New(resp.Status)
	}
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = have + resp.ContentLength
	}
	_, err = io.Copy(&counter{f, have, total, func(have, total int64) {
		patience.Reset(stall)
		step(have, total)
	}}, resp.Body)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// counter reports every write to a file.
type counter struct {
	w           io.Writer
	have, total int64
	step        func(have, total int64)
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.have += int64(n)
	c.step(c.have, c.total)
	return n, err
}
