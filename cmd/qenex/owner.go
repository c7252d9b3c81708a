//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/qenex/qenex-kernel/guestkernel/sentry"
	"github.com/qenex/qenex-kernel/oci/bundle"
	"github.com/qenex/qenex-kernel/oci/container"
)

// sandboxCmd is the process that owns a container's sandbox. create starts it: descriptor 3 is where it says that it is ready, 4 its
// control socket.
type sandboxCmd struct {
	Config     string `required:""`
	Bundle     string `required:""`
	Checkpoint string
}

// Run owns a sandbox until its first program has ended, and ends with its exit code.
func (c *sandboxCmd) Run() error {
	signals := catchSignals(true)
	o, l, err := c.build()
	if err := errors.Join(err, sayReady(err)); err != nil {
		return &exitError{exitNative, err}
	}
	go o.serve(l)
	go forward(signals, func(sig syscall.Signal) { _ = o.signal(0, sig, false) }) // it fails when the program has ended
	return &exitError{o.wait(), nil}
}

func (c *sandboxCmd) build() (*owner, *container.Listener, error) {
	l, err := container.NewListener(os.NewFile(4, "control"))
	if err != nil {
		return nil, nil, fmt.Errorf("the control socket: %w", err)
	}
	text, err := os.ReadFile(c.Config)
	if err != nil {
		return nil, nil, err
	}
	config, err := bundle.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	spec, _, err := bundle.Sandbox(c.Bundle, config)
	if err != nil {
		return nil, nil, err
	}
	if c.Checkpoint != "" {
		if spec.Restore, err = os.Open(c.Checkpoint); err != nil {
			return nil, nil, err
		}
	}
	s, err := sentry.New(spec)
	if err != nil {
		return nil, nil, err
	}
	missing, err := s.Confine()
	if err != nil {
		return nil, nil, fmt.Errorf("shutting this process in: %w", err)
	}
	warnUnconfined(missing)
	return &owner{s: s, over: make(chan int, 1)}, l, nil
}

// owner answers what is asked of a sandbox.
type owner struct {
	s    *sentry.Sandbox
	over chan int // the exit code, once

	answering sync.RWMutex // read-locked until the answer to a request is sent

	mu      sync.Mutex
	started bool
	paused  bool
}

// wait returns the exit code of this process. Whoever asked for the end has its answer then.
func (o *owner) wait() int {
	code := <-o.over
	o.answering.Lock()
	return code
}

// end ends the process with a code, unless it is ending.
func (o *owner) end(code int) {
	select {
	case o.over <- code:
	default:
	}
}

func (o *owner) serve(l *container.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "qenex: the control socket is gone, and with it the container:", err)
			o.end(exitNative)
			return
		}
		go o.session(c)
	}
}

// session answers one connection's requests, one after the other.
func (o *owner) session(c *container.Conn) {
	defer c.Close()
	s := &session{o: o, c: c}
	defer s.close()
	for {
		var r container.Request
		files, err := c.Receive(&r)
		if err != nil {
			return
		}
		if err := s.handle(r, files); err != nil {
			return
		}
		s.announce()
	}
}

func (o *owner) start() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.s.Start(); err != nil {
		if !errors.Is(err, sentry.ErrStarted) {
			o.end(startCode(err))
		}
		return err
	}
	o.started = true
	go func() {
		status, err := o.s.Wait()
		if err != nil {
			fmt.Fprintln(os.Stderr, "qenex:", oneLine(err))
			o.end(exitNative)
			return
		}
		o.end(status.Shell())
	}()
	return nil
}

// signal sends a signal to the sandbox. Before start there is no program: the signals that end one by themselves end the container.
func (o *owner) signal(pid int, sig syscall.Signal, all bool) error {
	o.mu.Lock()
	started := o.started
	o.mu.Unlock()
	if started {
		return o.s.Signal(pid, sig, all)
	}
	switch sig {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL, syscall.SIGTERM:
		o.end(exitSignal + int(sig))
	}
	return nil
}

func (o *owner) status() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.started:
		return "created"
	case o.paused:
		return "paused"
	}
	return "running"
}

func (o *owner) pause(on bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	do := o.s.Resume
	if on {
		do = o.s.Pause
	}
	err := do()
	if err == nil {
		o.paused = on
	}
	return err
}

// session is one control connection, which may belong to one program that it has started.
type session struct {
	o *owner
	c *container.Conn

	send1 sync.Mutex // a reply and the news of the program's end are sent one after the other

	pid  int // of the program; 0: none
	wait func() (sentry.Status, error)
	done chan struct{} // closed when it has ended
}

// handle answers one request.
func (s *session) handle(r container.Request, files []*os.File) error {
	s.o.answering.RLock()
	defer s.o.answering.RUnlock()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	return s.send(s.answer(r, files))
}

func (s *session) send(r container.Reply) error {
	s.send1.Lock()
	defer s.send1.Unlock()
	return s.c.Send(r)
}

func (s *session) answer(r container.Request, files []*os.File) (reply container.Reply) {
	var err error
	switch r.Op {
	case container.OpState:
		reply.Status = s.o.status()
	case container.OpStart:
		err = s.o.start()
	case container.OpSignal:
		pid := r.PID
		if pid == 0 && !r.All {
			pid = s.pid
		}
		err = s.o.signal(pid, syscall.Signal(r.Signal), r.All)
	case container.OpExec:
		reply.PID, err = s.exec(r.Exec, files)
	case container.OpPIDs:
		reply.Processes, err = s.o.s.PIDs()
	case container.OpPause, container.OpResume:
		err = s.o.pause(r.Op == container.OpPause)
	case container.OpSave:
		if len(files) != 1 {
			err = errors.New("save needs one file")
			break
		}
		err = s.o.s.Save(files[0], r.Stop)
	case container.OpStats:
		stats := s.o.s.Stats()
		reply.Stats = &stats
	default:
		err = fmt.Errorf("request %q is not known", r.Op)
	}
	if err != nil {
		reply.Error, reply.Code = oneLine(err), startCode(err)
	}
	return reply
}

// exec starts a program for this connection.
func (s *session) exec(e *sentry.ExecSpec, files []*os.File) (int, error) {
	if e == nil || len(files) != 3 {
		return 0, errors.New("exec needs a program and three files")
	}
	if s.pid != 0 {
		return 0, errors.New("this connection has a program already")
	}
	if !s.isStarted() {
		return 0, sentry.ErrNotStarted
	}
	e.Files = [3]*os.File(files) // never what the message says
	pid, wait, err := s.o.s.Exec(*e)
	if err != nil {
		return 0, err
	}
	s.pid, s.wait, s.done = pid, wait, make(chan struct{})
	return pid, nil
}

func (s *session) isStarted() bool {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	return s.o.started
}

// announce begins to wait for the program that exec has just started: its end is told behind the answer to exec.
func (s *session) announce() {
	if s.wait == nil {
		return
	}
	wait := s.wait
	s.wait = nil
	go func() {
		defer close(s.done)
		status, err := wait()
		r := container.Reply{Exited: &status}
		if err != nil {
			r.Error = oneLine(err)
		}
		_ = s.send(r) // whoever asked may be gone
	}()
}

// close kills the program of a connection that has ended.
func (s *session) close() {
	if s.done == nil {
		return
	}
	select {
	case <-s.done:
	default:
		_ = s.o.s.Signal(s.pid, syscall.SIGKILL, false) // it may have ended just now
	}
}
