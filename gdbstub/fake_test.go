package gdbstub

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/kvm"
	"github.com/qenex/qenex-kernel/vcpu"
	"github.com/qenex/qenex-kernel/vcpu/probe"
)

// fakeRAM is 64 KiB.
type fakeRAM struct{ b [64 << 10]byte }

func (r *fakeRAM) at(gpa uint64, n int) ([]byte, error) {
	if gpa > uint64(len(r.b)) || uint64(n) > uint64(len(r.b))-gpa {
		return nil, errors.New("no memory there")
	}
	return r.b[gpa : gpa+uint64(n)], nil
}

func (r *fakeRAM) Read(gpa uint64, p []byte) error {
	b, err := r.at(gpa, len(p))
	copy(p, b)
	return err
}

func (r *fakeRAM) Write(gpa uint64, p []byte) error {
	b, err := r.at(gpa, len(p))
	copy(b, p)
	return err
}

// fakeCPU never runs anything; its linear addresses are 0x10000 above the physical ones.
type fakeCPU struct {
	ram   *fakeRAM
	regs  kvm.Regs
	sregs kvm.Sregs
	xsave kvm.XSave
	debug *vcpu.Debug
	state vcpu.State
	why   *vcpu.DebugStop
	done  chan struct{}
	ends  bool // its machine ends when it is resumed
}

const fakeOffset = 0x10000

func (c *fakeCPU) Registers() (kvm.Regs, kvm.Sregs, error) { return c.regs, c.sregs, nil }
func (c *fakeCPU) SetRegisters(r *kvm.Regs, s *kvm.Sregs) error {
	c.regs, c.sregs = *r, *s
	return nil
}
func (c *fakeCPU) Vector() (*kvm.XSave, error)  { x := c.xsave; return &x, nil }
func (c *fakeCPU) SetVector(x *kvm.XSave) error { c.xsave = *x; return nil }
func (c *fakeCPU) SetDebug(d *vcpu.Debug) error { c.debug = d; return nil }
func (c *fakeCPU) DebugStop() *vcpu.DebugStop   { return c.why }
func (c *fakeCPU) State() vcpu.State            { return c.state }
func (c *fakeCPU) Pause(context.Context) error  { c.state = vcpu.Paused; return nil }
func (c *fakeCPU) Resume() error                { c.state = vcpu.Running; return nil }
func (c *fakeCPU) Done() <-chan struct{}        { return c.done }
func (c *fakeCPU) Translate(addr uint64) (uint64, error) {
	if addr < fakeOffset || addr >= fakeOffset+64<<10 {
		return 0, errors.New("not mapped")
	}
	return addr - fakeOffset, nil
}

func (c *fakeCPU) access(addr uint64, p []byte, do func(uint64, []byte) error) (int, error) {
	for i := range p {
		gpa, err := c.Translate(addr + uint64(i))
		if err != nil {
			return i, err
		}
		if err := do(gpa, p[i:i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}
func (c *fakeCPU) ReadLinear(addr uint64, p []byte) (int, error) {
	return c.access(addr, p, c.ram.Read)
}
func (c *fakeCPU) WriteLinear(addr uint64, p []byte) (int, error) {
	return c.access(addr, p, c.ram.Write)
}

// newFake returns a stub of two CPUs that are paused, with everything a KVM can have.
func newFake() (*stub, []*fakeCPU) {
	ram := &fakeRAM{}
	var cpus []*fakeCPU
	m := machine{memory: ram, start: func() error { return nil }}
	for range 2 {
		c := &fakeCPU{ram: ram, state: vcpu.Paused, done: make(chan struct{})}
		cpus = append(cpus, c)
		m.cpus = append(m.cpus, c)
	}
	all := func(state vcpu.State) {
		for _, c := range cpus {
			c.state = state
		}
	}
	m.pause = func(context.Context) error { all(vcpu.Paused); return nil }
	m.resume = func() error {
		all(vcpu.Running)
		if cpus[0].ends {
			all(vcpu.Stopped)
			close(cpus[0].done)
		}
		return nil
	}
	s := newStub(m, probe.DebugResult{Step: true, Breakpoint: true, User: true, Execute: true, Data: true})
	return s, cpus
}

func ask(t testing.TB, s *stub, packet, want string) {
	t.Helper()
	if got, _ := s.command(context.Background(), packet); got != want {
		t.Errorf("%q is answered by %q, want %q", packet, got, want)
	}
}

func TestMemoryAndBreakpoints(t *testing.T) {
	s, cpus := newFake()
	ram := cpus[0].ram
	copy(ram.b[0x100:], "original")
	ask(t, s, "m10100,8", "6f726967696e616c")
	ask(t, s, "Z0,10102,1", "OK")
	ask(t, s, "Z0,10102,1", "OK")
	if string(ram.b[0x100:0x108]) != "or\xccginal" {
		t.Errorf("memory %q", ram.b[0x100:0x108])
	}
	ask(t, s, "m10100,8", "6f726967696e616c")
	ask(t, s, "M10101,3:585958", "OK")
	if string(ram.b[0x100:0x108]) != "oX\xccXinal" {
		t.Errorf("memory %q", ram.b[0x100:0x108])
	}
	ask(t, s, "X10105,2:}]z", "OK")
	ask(t, s, "z0,10102,1", "OK")
	if string(ram.b[0x100:0x108]) != "oXYXi}zl" {
		t.Errorf("memory %q", ram.b[0x100:0x108])
	}
	for _, p := range []string{"M10100,2:aa", "M10100,1", "X10100,2:}", "Z0,5,1", "Z0,,", "P999=00", "P0=00", "p999", "Hg9", "T7", "vCont;x", "vCont;", "c100", "qXfer:features:read:other.xml:0,10"} {
		if got, _ := s.command(t.Context(), p); !strings.HasPrefix(got, "E.") {
			t.Errorf("%q is answered by %q", p, got)
		}
	}
	for _, p := range []string{"m5,1", "m", "mx,y"} {
		ask(t, s, p, "E01")
	}
	for _, p := range []string{"", "qUnknown", "vMustReplyEmpty", "Z9,1,1", "b"} {
		ask(t, s, p, "")
	}
	// What is left goes with the session.
	ask(t, s, "Z0,10100,1", "OK")
	if err := s.leave(); err != nil || ram.b[0x100] != 'o' || cpus[0].debug != nil || cpus[0].state != vcpu.Running {
		t.Errorf("%v, %q, %+v, %v", err, ram.b[0x100], cpus[0].debug, cpus[0].state)
	}
}

func TestRegisters(t *testing.T) {
	s, cpus := newFake()
	for i, r := range registers {
		if r.set == nil {
			continue
		}
		value := strings.Repeat("a5", r.size)
		if r.name == "fctrl" || r.name == "fstat" || r.name == "fop" {
			value = "a5a50000"
		}
		ask(t, s, "P"+hexNumber(i)+"="+value, "OK")
		ask(t, s, "p"+hexNumber(i), value)
	}
	all, _ := s.command(t.Context(), "g")
	saved := cpus[0].regs
	cpus[0].regs = kvm.Regs{}
	ask(t, s, "G"+all, "OK")
	if cpus[0].regs != saved || saved.RIP != 0xa5a5a5a5a5a5a5a5 {
		t.Errorf("registers %+v, want %+v", cpus[0].regs, saved)
	}
	ask(t, s, "Hg2", "OK")
	ask(t, s, "p0", "0000000000000000")
	ask(t, s, "qC", "QC2")
	ask(t, s, "qfThreadInfo", "m1,2")
	ask(t, s, "qThreadExtraInfo,2", "764350552031")
	if !strings.Contains(description, `name="rip" bitsize="64" type="code_ptr" regnum="16"`) {
		t.Error(description)
	}
}

func hexNumber(i int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[i/16], digits[i%16]})
}

func TestWatches(t *testing.T) {
	s, cpus := newFake()
	ask(t, s, "Z1,10000,1", "OK")
	ask(t, s, "Z2,10008,8", "OK")
	ask(t, s, "Z4,10010,4", "OK")
	if got, _ := s.command(t.Context(), "Z2,10001,8"); !strings.HasPrefix(got, "E.") {
		t.Errorf("an address that is no multiple: %q", got)
	}
	ask(t, s, "Z1,10001,1", "OK")
	if got, _ := s.command(t.Context(), "Z1,10002,1"); !strings.Contains(got, "in use") {
		t.Errorf("a fifth: %q", got)
	}
	ask(t, s, "z1,10001,1", "OK")
	if _, now := s.command(t.Context(), "vCont;s:2;c"); now || !s.running || cpus[0].state != vcpu.Paused || cpus[1].state != vcpu.Running || !cpus[1].debug.Step || cpus[0].debug.Step {
		t.Errorf("a step of thread 2: %v %v", cpus[0].state, cpus[1].state)
	}
	if d := cpus[0].debug; len(d.Watches) != 3 || d.Owns != nil {
		t.Errorf("%+v", d)
	}
	cpus[1].why = &vcpu.DebugStop{Watch: 1}
	s.running = false
	ask(t, s, "?", "T05thread:2;watch:10008;")
	cpus[1].why = &vcpu.DebugStop{Watch: 2}
	ask(t, s, "?", "T05thread:2;awatch:10010;")
	cpus[1].why = &vcpu.DebugStop{Watch: 0}
	ask(t, s, "?", "T05thread:2;hwbreak:;")
	cpus[1].why = &vcpu.DebugStop{Watch: -1, Breakpoint: true}
	ask(t, s, "?", "T05thread:2;swbreak:;")
	s.can = probe.DebugResult{}
	for _, p := range []string{"Z0,10000,1", "Z1,10000,1", "Z2,10000,1"} {
		if got, _ := s.command(t.Context(), p); !strings.Contains(got, "KVM of this host") {
			t.Errorf("%s on a KVM that cannot: %q", p, got)
		}
	}
}

// talk runs a session over a connection and returns our end.
func talk(t *testing.T) (c net.Conn, cpus []*fakeCPU, result chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	s, cpus := newFake()
	result = make(chan error, 1)
	go func() { result <- s.serve(t.Context(), theirs) }()
	t.Cleanup(func() { ours.Close() })
	return ours, cpus, result
}

// expect reads exactly what is wanted.
func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		k, err := c.Read(got[n:])
		if err != nil {
			t.Fatalf("read %q, then %v; want %q", got[:n], err, want)
		}
		n += k
	}
	if string(got) != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func TestProtocol(t *testing.T) {
	c, cpus, result := talk(t)
	write(t, c, "+$qC#b4")
	expect(t, c, "+$QC1#c5")
	write(t, c, "$qC#00") // damaged
	expect(t, c, "-")
	write(t, c, "-")
	expect(t, c, "$QC1#c5")
	write(t, c, "+$QStartNoAckMode#b0")
	expect(t, c, "+$OK#9a")
	write(t, c, "+$qC#b4")
	expect(t, c, "$QC1#c5")
	write(t, c, "$c#63\x03")
	expect(t, c, "$T02thread:1;#d4")
	write(t, c, "$D#44")
	expect(t, c, "$OK#9a")
	if err := <-result; err != nil {
		t.Error(err)
	}
	if cpus[0].state != vcpu.Running {
		t.Errorf("after detach: %v", cpus[0].state)
	}
}

func TestBadPeers(t *testing.T) {
	for name, bytes := range map[string]string{"noise": "GET / HTTP/1.1", "endless": "$" + strings.Repeat("x", maxPacket+1), "a packet while the guest runs": "+$QStartNoAckMode#b0$c#63$g#67"} {
		c, cpus, result := talk(t)
		go func() {
			buf := make([]byte, 100)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
		c.Write([]byte(bytes)) // may end early: the other side has heard enough
		if err := <-result; !errors.Is(err, errPacket) {
			t.Errorf("%s: %v", name, err)
		}
		if cpus[1].state != vcpu.Running {
			t.Errorf("%s leaves the guest %v", name, cpus[1].state)
		}
	}
	c, cpus, result := talk(t)
	write(t, c, "$c#6")
	c.Close()
	if err := <-result; err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
	if cpus[0].state != vcpu.Running {
		t.Errorf("a lost connection leaves the guest %v", cpus[0].state)
	}
}

func TestMachineEnds(t *testing.T) {
	c, cpus, result := talk(t)
	cpus[0].ends = true
	write(t, c, "$c#63")
	expect(t, c, "+$W00#b7")
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// FuzzCommands gives a stub any packets, one a line.
func FuzzCommands(f *testing.F) {
	f.Add("g\nm10000,10\nZ0,10000,1\nM10000,1:00\nz0,10000,1\nvCont;s:1;c\nqXfer:features:read:target.xml:0,fff")
	f.Add("P0=0011223344556677\nHg2\nT1\nqRcmd,00\nX10000,1:}\x03\nD")
	f.Fuzz(func(t *testing.T, text string) {
		s, _ := newFake()
		for p := range strings.SplitSeq(text, "\n") {
			s.running = false
			reply, _ := s.command(t.Context(), p)
			if len(reply) > maxPacket+1 {
				t.Fatalf("%q is answered by %d bytes", p, len(reply))
			}
			if n := len(s.points.patches); n > maxPoints || len(s.points.watches) > vcpu.MaxWatches {
				t.Fatalf("%d breakpoints, %d watches", n, len(s.points.watches))
			}
		}
		if err := s.points.clear(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzStream gives a session any bytes.
func FuzzStream(f *testing.F) {
	f.Add([]byte("+$qC#b4-$QStartNoAckMode#b0$c#63\x03$g#67$k#6b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		s, cpus := newFake()
		result := make(chan error, 1)
		go func() { result <- s.serve(t.Context(), theirs) }()
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := ours.Read(buf); err != nil {
					return
				}
			}
		}()
		ours.Write(data)
		ours.Close()
		<-result
		if cpus[0].state != vcpu.Running || cpus[0].debug != nil && cpus[0].debug.Step {
			t.Errorf("the guest is left %v", cpus[0].state)
		}
	})
}
