package gdbstub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// cpu is what is asked of a *vcpu.VCPU.
type cpu interface {
	Registers() (kvm.Regs, kvm.Sregs, error)
	SetRegisters(*kvm.Regs, *kvm.Sregs) error
	Vector() (*kvm.XSave, error)
	SetVector(*kvm.XSave) error
	ReadLinear(addr uint64, p []byte) (int, error)
	WriteLinear(addr uint64, p []byte) (int, error)
	Translate(addr uint64) (uint64, error)
	SetDebug(*vcpu.Debug) error
	DebugStop() *vcpu.DebugStop
	State() vcpu.State
	Pause(context.Context) error
	Resume() error
	Done() <-chan struct{}
}

// ram is what is asked of a *memmap.Memory.
type ram interface {
	Read(gpa uint64, p []byte) error
	Write(gpa uint64, p []byte) error
}

// machine is a Target.
type machine struct {
	cpus   []cpu
	memory ram
	start  func() error
	pause  func(context.Context) error
	resume func() error
}

// stub is one session. One goroutine has it, but for owns.
type stub struct {
	machine
	can   probe.DebugResult
	link  link
	ended error // why the session is over; errDone: as it should

	at      int // the vCPU that registers and memory are asked of
	running bool
	step    int // the vCPU that runs alone; -1: all do
	stopped chan struct{}
	points  points
}

// What ends a session.
var (
	errDone  = errors.New("gdb has finished")
	errEnded = errors.New("the machine has ended")
)

func newStub(m machine, can probe.DebugResult) *stub {
	s := &stub{machine: m, can: can, step: -1, stopped: make(chan struct{}, 1)}
	s.points.init(m.memory)
	return s
}

// serve talks to gdb until it goes or ctx ends.
func (s *stub) serve(ctx context.Context, c net.Conn) (err error) {
	s.link.w = c
	if err := s.halt(ctx); err != nil {
		return err
	}
	messages := make(chan message)
	failed := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		r := bufio.NewReader(c)
		for {
			m, err := s.link.read(r)
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-done:
				return
			}
		}
	}()
	defer func() { err = errors.Join(err, s.leave()) }()
	defer close(done)
	for {
		select {
		case m := <-messages:
			err = s.message(ctx, m)
		case <-s.stopped:
			err = s.stop(ctx)
		case <-s.gone():
			err = errEnded
		case err = <-failed:
			if errors.Is(err, io.EOF) {
				err = errDone // it went without a word; leave tidies up
			}
		case <-ctx.Done():
			return nil
		}
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			if s.over() || errors.Is(err, errEnded) {
				return s.link.send("W00")
			}
			return err
		}
	}
}

// gone is closed when the machine has ended while gdb waits for it to stop.
func (s *stub) gone() <-chan struct{} {
	if !s.running {
		return nil
	}
	return s.cpus[0].Done()
}

// over says whether the machine has ended, or is about to.
func (s *stub) over() bool {
	return slices.ContainsFunc(s.cpus, func(c cpu) bool {
		st := c.State()
		return st == vcpu.Stopped || st == vcpu.Faulted
	})
}

// message handles what gdb sent.
func (s *stub) message(ctx context.Context, m message) error {
	switch {
	case s.running && m.interrupt:
		if err := s.halt(ctx); err != nil {
			return err
		}
		return s.report(2)
	case m.interrupt:
		return nil
	case s.running:
		return fmt.Errorf("%w: a packet while the guest runs", errPacket)
	}
	reply, ok := s.command(ctx, string(m.packet))
	if !ok {
		return s.ended
	}
	return errors.Join(s.link.send(reply), s.ended)
}

// halt stops all vCPUs. Those of a machine that has not been started are as they are.
func (s *stub) halt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.cpus[0].State() != vcpu.Created {
		if err := s.pause(ctx); err != nil {
			return fmt.Errorf("pause the guest for gdb: %w", err)
		}
	}
	s.running = false
	return nil
}

// stop is told that a vCPU stopped for the debugger.
func (s *stub) stop(ctx context.Context) error {
	if !s.running {
		return nil // as Ctrl-C came
	}
	if err := s.halt(ctx); err != nil {
		return err
	}
	for i, c := range s.cpus {
		if c.DebugStop() != nil {
			s.at = i
			return s.report(5)
		}
	}
	return s.report(5)
}

// report tells gdb that the guest has stopped, with a signal, and why.
func (s *stub) report(signal int) error { return s.link.send(s.why(signal)) }

func (s *stub) why(signal int) string {
	reply := fmt.Sprintf("T%02xthread:%x;", signal, s.at+1)
	stop := s.cpus[s.at].DebugStop()
	if stop == nil || signal != 5 {
		return reply
	}
	switch w, ok := s.points.watched(stop.Watch); {
	case stop.Breakpoint:
		reply += "swbreak:;"
	case ok && w.Kind == vcpu.WatchExecute:
		reply += "hwbreak:;"
	case ok && w.Kind == vcpu.WatchWrite:
		reply += fmt.Sprintf("watch:%x;", w.Addr)
	case ok:
		reply += fmt.Sprintf("awatch:%x;", w.Addr)
	}
	return reply
}

// run lets the guest run, or one vCPU of it make one step.
func (s *stub) run(step bool) error {
	select {
	case <-s.stopped: // of a run before
	default:
	}
	owns := s.points.owns
	if len(s.points.patches) == 0 {
		owns = nil // then the guest's own INT3s, of which Linux makes many, need no help
	}
	for i, c := range s.cpus {
		d := &vcpu.Debug{
			Step: step && i == s.at, Watches: s.points.watches, Owns: owns,
			Stopped: func(*vcpu.VCPU) {
				select {
				case s.stopped <- struct{}{}:
				default:
				}
			},
		}
		if err := c.SetDebug(d); err != nil {
			return err
		}
	}
	s.running = true
	switch {
	case s.cpus[0].State() == vcpu.Created:
		return s.start()
	case step:
		return s.cpus[s.at].Resume()
	}
	return s.resume()
}

// leave takes everything of the debugger's out of the guest, which then runs on if it ever ran.
func (s *stub) leave() error {
	if s.over() {
		return nil
	}
	if err := s.halt(context.Background()); err != nil {
		return unlessEnded(err)
	}
	errs := []error{s.points.clear()}
	for _, c := range s.cpus {
		errs = append(errs, unlessEnded(c.SetDebug(nil)))
	}
	if s.cpus[0].State() != vcpu.Created {
		errs = append(errs, unlessEnded(s.resume()))
	}
	return errors.Join(errs...)
}

// unlessEnded drops an error that says that a vCPU has stopped for good, or is to.
func unlessEnded(err error) error {
	if errors.Is(err, vcpu.ErrState) {
		return nil
	}
	return err
}

// command answers a packet; false: there is no answer now. Unknown ones are answered by nothing, as the protocol has it.
func (s *stub) command(ctx context.Context, p string) (reply string, ok bool) {
	if p == "" {
		return "", true
	}
	rest := p[1:]
	switch p[0] {
	case '?':
		return s.why(5), true
	case 'g':
		return plain(s.allRegisters())
	case 'G':
		return done(s.setAllRegisters(rest))
	case 'p':
		return answer(s.oneRegister(rest))
	case 'P':
		return done(s.setOneRegister(rest))
	case 'm':
		return plain(s.readMemory(rest))
	case 'M', 'X':
		return done(s.writeMemory(rest, p[0] == 'X'))
	case 'Z', 'z':
		return s.point(p[0] == 'Z', rest)
	case 'H':
		return done(s.choose(rest))
	case 'T':
		_, err := s.thread(rest)
		return done(err)
	case 'c', 's':
		if rest != "" {
			return problem(errors.New("to go on at another address, change rip")), true
		}
		return s.goOn(p[0] == 's')
	case 'C', 'S': // with a signal, which a machine has not got
		return s.goOn(p[0] == 'S')
	case 'v':
		return s.verbose(p)
	case 'q', 'Q':
		return s.query(p)
	case 'D':
		s.ended = errDone
		return "OK", true
	case 'k':
		s.ended = errDone
		return "", false
	}
	return "", true
}

func answer(reply string, err error) (string, bool) {
	if err != nil {
		return problem(err), true
	}
	return reply, true
}

// plain is answer for packets whose errors gdb wants to be numbers.
func plain(reply string, err error) (string, bool) {
	if err != nil {
		return "E01", true
	}
	return reply, true
}

func done(err error) (string, bool) { return answer("OK", err) }

// problem is an error that gdb shows.
func problem(err error) string {
	return "E." + strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
}

// goOn runs or steps; the answer comes when the guest stops.
func (s *stub) goOn(step bool) (string, bool) {
	if err := s.run(step); err != nil {
		s.running = false
		if s.over() || errors.Is(err, vcpu.ErrState) { // or about to be
			s.ended = errEnded
			return "", false
		}
		return problem(err), true
	}
	return "", false
}

// thread reads a thread's number, which is a vCPU's plus one.
func (s *stub) thread(text string) (int, error) {
	n, err := strconv.ParseUint(text, 16, 16)
	if err != nil || n < 1 || n > uint64(len(s.cpus)) {
		return 0, fmt.Errorf("there is no thread %.20q; there are 1 to %x", text, len(s.cpus))
	}
	return int(n) - 1, nil
}

// choose is H: the thread of what follows; 0 and -1 leave that to us.
func (s *stub) choose(p string) error {
	if p == "" {
		return errPacket
	}
	if p[1:] == "0" || p[1:] == "-1" {
		return nil
	}
	i, err := s.thread(p[1:])
	if err == nil {
		s.at = i
	}
	return err
}

// verbose handles vCont, of which the first action decides: a step is of one vCPU, alone.
func (s *stub) verbose(p string) (string, bool) {
	if p == "vCont?" {
		return "vCont;c;C;s;S", true
	}
	actions, ok := strings.CutPrefix(p, "vCont;")
	if !ok {
		return "", true
	}
	action, _, _ := strings.Cut(actions, ";")
	what, thread, of := strings.Cut(action, ":")
	if what == "" {
		return problem(errPacket), true
	}
	step := what[0] == 's' || what[0] == 'S'
	if !step && what[0] != 'c' && what[0] != 'C' {
		return problem(fmt.Errorf("action %.20q is not known", what)), true
	}
	if of && thread != "-1" {
		i, err := s.thread(thread)
		if err != nil {
			return problem(err), true
		}
		s.at = i
	}
	return s.goOn(step)
}

func (s *stub) query(p string) (string, bool) {
	name, args, _ := strings.Cut(p, ":")
	switch name {
	case "qSupported":
		return fmt.Sprintf("PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+", maxPacket), true
	case "QStartNoAckMode":
		s.link.withoutAcks()
		return "OK", true
	case "qXfer":
		return answer(transfer(args))
	case "qAttached":
		return "1", true
	case "qC":
		return fmt.Sprintf("QC%x", s.at+1), true
	case "qfThreadInfo":
		var ids []string
		for i := range s.cpus {
			ids = append(ids, strconv.FormatInt(int64(i+1), 16))
		}
		return "m" + strings.Join(ids, ","), true
	case "qsThreadInfo":
		return "l", true
	}
	if text, ok := strings.CutPrefix(p, "qThreadExtraInfo,"); ok {
		i, err := s.thread(text)
		return answer(fmt.Sprintf("%x", fmt.Sprintf("vCPU %d", i)), err)
	}
	if strings.HasPrefix(p, "qRcmd,") { // gdb's "monitor", whatever it says
		yes := map[bool]string{true: "yes", false: "no"}
		return fmt.Sprintf("%x", fmt.Sprintf("What this KVM can do: step: %s; breakpoints in the kernel: %s, in programs: %s; hardware breakpoints: %s; watchpoints: %s\n",
			yes[s.can.Step], yes[s.can.Breakpoint], yes[s.can.User], yes[s.can.Execute], yes[s.can.Data])), true
	}
	return "", true
}

// transfer answers qXfer:features:read:target.xml:OFFSET,LENGTH.
func transfer(args string) (string, error) {
	window, ok := strings.CutPrefix(args, "features:read:target.xml:")
	if !ok {
		return "", fmt.Errorf("there is no %.60q", args)
	}
	offset, length, err := twoNumbers(window)
	if err != nil {
		return "", err
	}
	if offset >= uint64(len(description)) {
		return "l", nil
	}
	part := description[offset:]
	if uint64(len(part)) <= min(length, maxPacket/2) {
		return "l" + part, nil
	}
	return "m" + part[:min(length, maxPacket/2)], nil
}

// twoNumbers reads "HEX,HEX".
func twoNumbers(p string) (a, b uint64, err error) {
	first, second, _ := strings.Cut(p, ",")
	if a, err = strconv.ParseUint(first, 16, 64); err == nil {
		b, err = strconv.ParseUint(second, 16, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %.60q is not two numbers", errPacket, p)
	}
	return a, b, nil
}
