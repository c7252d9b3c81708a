package crb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/tpm"
)

// driver does what a guest's driver does, in the order of Linux' tpm_crb.
type driver struct {
	t testing.TB
	d *Device
}

func (d driver) read(at uint64) uint32 {
	var p [4]byte
	d.d.Read(at, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (d driver) write(at uint64, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	d.d.Write(at, p[:])
}

func (d driver) expect(at uint64, mask, want uint32) {
	d.t.Helper()
	if got := d.read(at); got&mask != want {
		d.t.Errorf("register %#x is %#x; want %#x of %#x", at, got, want, mask)
	}
}

func (d driver) take() {
	d.t.Helper()
	d.write(locCtrl, request)
	d.expect(locState, assigned|valid, assigned|valid)
	d.expect(locSts, granted, granted)
	d.write(ctrlReq, cmdReady)
	d.expect(ctrlReq, ^uint32(0), 0)
	d.expect(ctrlSts, idle|failed, 0)
}

func (d driver) leave() {
	d.t.Helper()
	d.write(ctrlReq, goIdle)
	d.expect(ctrlSts, idle, idle)
	d.write(locCtrl, relinquish)
	d.expect(locState, assigned, 0)
}

// run writes a command in pieces of 8 bytes, executes it, and reads the response.
func (d driver) run(cmd []byte) []byte {
	d.t.Helper()
	for i := 0; i < len(cmd); i += 8 {
		d.d.Write(buffer+uint64(i), cmd[i:min(i+8, len(cmd))])
	}
	d.write(ctrlStart, start)
	for d.read(ctrlStart) != 0 {
		runtime.Gosched()
	}
	rsp := make([]byte, headerSize)
	d.d.Read(buffer, rsp)
	rsp = make([]byte, min(binary.BigEndian.Uint32(rsp[2:]), bufferSize))
	d.d.Read(buffer, rsp)
	return rsp
}

var getRandom = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 16}

func TestSwtpm(t *testing.T) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed")
	}
	sw, err := tpm.StartSoftware(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// What was measured before the guest runs, the guest reads.
	m, err := sw.Measure()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Bytes(tpm.Kernel, "vmlinuz", []byte("kernel")); err != nil {
		t.Fatal(err)
	}
	dev := New(sw, Base)
	d := driver{t, dev}
	d.expect(intfID, 0xff, 0x11)
	d.expect(cmdSize, ^uint32(0), bufferSize)
	d.expect(cmdAddress, ^uint32(0), Base+buffer)
	d.expect(rspAddress, ^uint32(0), Base+buffer)
	d.take()
	first, second := d.run(getRandom), d.run(getRandom)
	if len(first) != 28 || len(second) != 28 || bytes.Equal(first, second) {
		t.Errorf("random: %x, %x", first, second)
	}
	pcrRead := []byte{0x80, 0x01, 0, 0, 0, 20, 0, 0, 0x01, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3, 0, 2, 0} // SHA-256, PCR 9
	rsp := d.run(pcrRead)
	want, err := sw.PCRs(9)
	if err != nil {
		t.Fatal(err)
	}
	if value := want[9]; len(rsp) < 32 || !bytes.Equal(rsp[len(rsp)-32:], value[:]) || value == [32]byte{} {
		t.Errorf("PCR 9 is %x for the guest, %x for the host", rsp, value)
	}
	d.leave()
	dev.Close()
	if err := sw.Close(); err != nil {
		t.Error(err)
	}
}

// fakeTPM answers with the command; it waits until it may.
type fakeTPM struct {
	enter, leave chan struct{}
	rsp          []byte
	err          error
}

func (f *fakeTPM) Command(cmd []byte) ([]byte, error) {
	if f.enter != nil {
		f.enter <- struct{}{}
		<-f.leave
	}
	if f.rsp != nil || f.err != nil {
		return f.rsp, f.err
	}
	return cmd, nil
}

func TestStates(t *testing.T) {
	f := &fakeTPM{}
	dev := New(f, 0)
	d := driver{t, dev}
	d.expect(locState, ^uint32(0), established|valid)

	// Without the locality, or idle, nothing happens.
	d.write(ctrlReq, cmdReady)
	d.expect(ctrlSts, idle, idle)
	d.write(locCtrl, request)
	dev.Write(buffer, getRandom)
	d.expect(buffer, ^uint32(0), 0)
	d.write(ctrlStart, start)
	d.expect(ctrlStart, start, 0)

	d.take()
	if rsp := d.run(getRandom); !bytes.Equal(rsp, getRandom) {
		t.Errorf("%x", rsp)
	}
	for _, size := range []byte{0, 9} {
		if rsp := d.run([]byte{0x80, 1, 0, 0, 0, size}); !bytes.Equal(rsp, []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x42}) {
			t.Errorf("a command of %d bytes: %x", size, rsp)
		}
	}
	if rsp := d.run([]byte{0x80, 1, 0, 0, 0x10, 0}); !bytes.Equal(rsp, []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x42}) {
		t.Errorf("a command that is longer than the buffer: %x", rsp)
	}
	d.leave()
	d.take()
	d.expect(buffer, ^uint32(0), 0) // the next user finds nothing

	// While a command runs, the guest can only look.
	f.enter, f.leave = make(chan struct{}), make(chan struct{})
	dev.Write(buffer, getRandom)
	d.write(ctrlStart, start)
	<-f.enter
	d.expect(ctrlStart, start, start)
	d.write(ctrlReq, goIdle)
	d.write(locCtrl, relinquish)
	dev.Write(buffer, []byte{1, 2, 3, 4})
	d.write(ctrlStart, start)
	d.write(ctrlCancel, 1)
	d.expect(ctrlSts, idle, 0)
	d.expect(locState, assigned, assigned)
	f.leave <- struct{}{}
	for d.read(ctrlStart) != 0 {
		runtime.Gosched()
	}
	d.expect(buffer, ^uint32(0), binary.LittleEndian.Uint32(getRandom))

	f.enter, f.err = nil, errors.New("the TPM is gone")
	d.run(getRandom)
	d.expect(ctrlSts, failed, failed)
	long := New(&fakeTPM{rsp: make([]byte, bufferSize+1)}, 0)
	driver{t, long}.take()
	driver{t, long}.run(getRandom)
	driver{t, long}.expect(ctrlSts, failed, failed)
	long.Close()

	var p [8]byte
	dev.Read(Size-4, p[:])
	if !bytes.Equal(p[:], []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("across the page's end: %x", p)
	}
	dev.Close()
	d.write(ctrlStart, start)
	d.expect(ctrlStart, start, 0)
}

// nonsense does what a hostile guest may do.
func nonsense(dev *Device, rnd *rand.Rand) {
	at := []uint64{locState, locCtrl, ctrlReq, ctrlStart, ctrlSts, ctrlCancel, buffer, rnd.Uint64N(Size + 16), rnd.Uint64()}[rnd.IntN(9)]
	p := make([]byte, 1+rnd.IntN(8))
	for i := range p {
		p[i] = byte(rnd.IntN(4))
	}
	if rnd.IntN(3) == 0 {
		dev.Read(at, p)
	} else {
		dev.Write(at, p)
	}
}

var stress = flag.Duration("stress", 500*time.Millisecond, "how long TestStressCRB runs")

func TestStressCRB(t *testing.T) {
	before := runtime.NumGoroutine()
	dev := New(&fakeTPM{}, Base)
	d := driver{t, dev}
	rnd := rand.New(rand.NewPCG(1, 2))
	count := 0
	for end := time.Now().Add(*stress); time.Now().Before(end); {
		for range 1000 {
			nonsense(dev, rnd)
		}
		count += 1000
	}
	for d.read(ctrlStart) != 0 {
		runtime.Gosched()
	}
	d.take() // it still works
	if rsp := d.run(getRandom); !bytes.Equal(rsp, getRandom) {
		t.Errorf("after the nonsense: %x", rsp)
	}
	dev.Close()
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, before %d", after, before)
	}
	t.Logf("%d accesses", count)
}

func FuzzCRB(f *testing.F) {
	f.Add([]byte{0x08, 0, 1, 1, 0x40, 0, 1, 1, 0x82, 0, 4, 0, 0, 0, 10, 0x4c, 0, 1, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		dev := New(&fakeTPM{}, Base)
		defer dev.Close()
		for len(ops) > 3 {
			at, n := uint64(binary.LittleEndian.Uint16(ops)), int(ops[2]%9)
			p := ops[3:min(len(ops), 3+n)]
			ops = ops[3+len(p):]
			if at&0x8000 != 0 {
				dev.Read(at&0x7fff, make([]byte, n))
			} else {
				dev.Write(at, p)
			}
		}
	})
}
