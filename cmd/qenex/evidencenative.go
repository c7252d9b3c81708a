//go:build !kernelonly

package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/guestkernel"
	"github.com/qenex/qenex-kernel/guestkernel/sentry"
	"github.com/qenex/qenex-kernel/tpm"
	"github.com/qenex/qenex-kernel/trust"
)

// evidenceNative measures and records a program that is about to run, and lets the sandbox tell its system calls.
func (c *runCmd) evidenceNative(spec *sentry.Spec) (e *evidence, err error) {
	e, err = c.newEvidence(fmt.Sprintf("program-%d", os.Getpid()), "")
	if e == nil || err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	var items []trust.Item
	if e.measure {
		if items, err = programItems(spec); err != nil {
			return e, err
		}
		defer trust.CloseItems(items)
	}
	if e.policy.calls {
		spec.Audit = &sentry.Audit{Every: e.policy.every, Record: e.call}
	}
	_, err = e.launch("run", items)
	return e, err
}

// call records a system call. Its arguments' digest is SHA-256 of the number and the six arguments (8 bytes each, big-endian) and the
// paths, each with a zero byte behind it.
func (e *evidence) call(c sentry.Call) {
	var buf [256]byte
	b := binary.BigEndian.AppendUint64(buf[:0], c.Number)
	for _, a := range c.Args {
		b = binary.BigEndian.AppendUint64(b, a)
	}
	detail := c.Paths[0]
	for _, p := range c.Paths {
		b = append(append(b, p...), 0)
	}
	if c.Paths[1] != "" {
		detail += " -> " + c.Paths[1]
	}
	// lost tells of its error.
	_ = e.record(auditchain.Record{
		Kind: auditchain.Syscall, Who: fmt.Sprintf("pid %d tid %d uid %d", c.PID, c.TID, c.UID), Verb: c.Name, Args: sha256.Sum256(b), Result: c.Result, Detail: detail,
	})
}

// programItems are what a program's launch consists of: the ring-0 core, the program's file or, with an image, all of that, the command
// line, and the rest of the sandbox.
func programItems(spec *sentry.Spec) (items []trust.Item, err error) {
	core, err := guestkernel.Core()
	if err != nil {
		return nil, err
	}
	rest := *spec
	rest.Args = nil
	config, err := json.Marshal(rest)
	if err != nil {
		return nil, err
	}
	var it trust.Item
	if spec.Root == "" {
		var path string
		if path, err = hostProgram(spec); err == nil {
			it, err = trust.OpenItem(tpm.Program, path)
		}
	} else {
		it, err = trust.TreeItem(tpm.Rootfs, spec.Root)
	}
	return []trust.Item{
		{What: tpm.Core, Name: "ring0", Bytes: core}, it, {What: tpm.CommandLine, Name: "arguments", Bytes: []byte(strings.Join(spec.Args, "\x00") + "\x00")},
		{What: tpm.Config, Name: "config", Bytes: config},
	}, err
}

// hostProgram finds the program as the sandbox will.
func hostProgram(spec *sentry.Spec) (string, error) {
	name := spec.Args[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join("/", spec.Dir, name)
		}
		return name, nil
	}
	path := ""
	for _, v := range spec.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &exitError{exitNotFound, fmt.Errorf("%s: %w", name, exec.ErrNotFound)}
}

// programEnded records how the program ended, and gives the connection back.
func (e *evidence) programEnded(status sentry.Status, err error) error {
	code, why := status.Shell(), ""
	if err != nil {
		code, why = codeOf(nativeError(err)), oneLine(err)
	}
	return errors.Join(e.stopped(code, why), e.close())
}
