package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// software is a running swtpm.
type software struct {
	cmd    *exec.Cmd
	stderr *limitedBuffer
}

// limitedBuffer keeps the first bytes that are written to it.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 4096-b.Len()))])
	return len(p), nil
}

// StartSoftware starts a swtpm with its state in dir, which is made if need be. Its PCRs are as after a reset. It ends with Close, or
// with this process.
func StartSoftware(dir string) (*TPM, error) {
	t, err := startSoftware(dir)
	if err != nil {
		return nil, fmt.Errorf("tpm: start swtpm with its state in %s: %w", dir, err)
	}
	return t, nil
}

func startSoftware(dir string) (*TPM, error) {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, fmt.Errorf("%w: install swtpm", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if strings.Contains(dir, ",") {
		return nil, errors.New("swtpm takes no directory with a comma in its name")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// swtpm serves one end of a pair of sockets and ends when ours is closed: nobody else can speak to it.
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "swtpm"), os.NewFile(uintptr(pair[1]), "swtpm")
	s := &software{stderr: &limitedBuffer{}}
	s.cmd = exec.Command(path, "socket", "--tpm2", "--fd", "3", "--tpmstate", "dir="+dir+",mode=0600", "--flags", "not-need-init,startup-clear")
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.Stdout, s.cmd.Stderr = s.stderr, s.stderr
	err = s.cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	t, err := newTPM(ours, s)
	if err != nil {
		ours.Close()
		return nil, errors.Join(err, s.wait())
	}
	return t, nil
}

// wait waits until swtpm has ended, which it does when its socket is closed.
func (s *software) wait() error {
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("swtpm: %w: %s", err, bytes.TrimSpace(s.stderr.Bytes()))
	}
	return nil
}
