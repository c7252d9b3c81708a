package simulate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bounds of a trace, so that a file from elsewhere cannot make the simulator run or allocate without end.
const (
	MaxVCPUs   = 4096
	maxOps     = 100_000 // of one program
	maxAllOps  = 1_000_000
	maxID      = 1 << 16 // locks and channels are numbered below
	maxTime    = time.Hour
	minPass    = time.Microsecond // CPU time that one pass of a repeated program takes at least
	maxLine    = 16 << 20
	maxRepeats = 1_000_000
)

// Trace is what vCPUs do when nothing hinders them. As a file it is a line of JSON for the header and one for each vCPU.
type Trace struct {
	Header
	VCPUs []VCPU `json:"-"`
}

// Header is the first line of a trace.
type Header struct {
	Version int           `json:"qenex_trace"` // 1
	Kind    string        `json:"kind"`        // a mix's name, or "recorded"
	Size    string        `json:"size,omitempty"`
	Seed    uint64        `json:"seed"`   // of the durations that vary; each vCPU draws from a stream of its own, so that policies see the same
	Length  time.Duration `json:"length"` // ns, at most an hour: the run ends here even if work is left
}

// VCPU is a vCPU's program and what a hypervisor knows of it.
type VCPU struct {
	Name    string        `json:"name"`
	VM      string        `json:"vm"`
	Tenant  string        `json:"tenant,omitempty"`
	Gang    int           `json:"gang,omitempty"`    // members spin for each other; 0: none
	Cache   float64       `json:"cache,omitempty"`   // 0..1, how much of a CPU's cache it fills
	Pin     []int         `json:"pin,omitempty"`     // CPU IDs that its user allows; nil: any
	Start   time.Duration `json:"start,omitempty"`   // ns: when it comes
	Forever bool          `json:"forever,omitempty"` // the program is repeated until everything that ends has ended
	Passes  int           `json:"passes,omitempty"`  // otherwise: how often it is run; 0 counts as 1
	Program []Op          `json:"program"`
}

// Op is a step of a program. Times are in ns of an undisturbed CPU of capacity 1.
type Op struct {
	Op     Kind          `json:"op"`
	Time   time.Duration `json:"t,omitempty"`
	Rest   time.Duration `json:"rest,omitempty"`   // of Burst
	ID     int           `json:"id,omitempty"`     // of a lock or a channel
	Times  int           `json:"n,omitempty"`      // of Burst; 0 counts as 1
	Jitter float64       `json:"jitter,omitempty"` // 0..1: times are drawn evenly from Time*(1-Jitter) to Time*(1+Jitter)
	Exp    bool          `json:"exp,omitempty"`    // times are drawn from an exponential distribution with mean Time
}

// Kind is what an Op does.
type Kind string

const (
	Compute Kind = "run"   // computes for Time
	Sleep   Kind = "sleep" // sleeps for Time
	Every   Kind = "every" // sleeps until Time after it last was due: arrivals that do not wait for the server
	Burst   Kind = "burst" // Times times: runs for Time and sleeps for Rest
	Send    Kind = "send"  // puts a message into channel ID, or wakes who waits for it
	Recv    Kind = "recv"  // takes a message from channel ID, or sleeps until one comes
	Lock    Kind = "lock"  // takes spinlock ID, holds it for Time of running, releases it
)

// Check tells what is wrong with a trace.
func (t *Trace) Check() error {
	switch {
	case t.Version != 1:
		return fmt.Errorf("trace has version %d, this program reads version 1", t.Version)
	case t.Length <= 0 || t.Length > maxTime:
		return fmt.Errorf("trace has length %d ns, must be more than 0 and at most %v", t.Length, maxTime)
	case len(t.VCPUs) == 0 || len(t.VCPUs) > MaxVCPUs:
		return fmt.Errorf("trace has %d vCPUs, must have 1 to %d", len(t.VCPUs), MaxVCPUs)
	}
	ops := 0
	for i := range t.VCPUs {
		v := &t.VCPUs[i]
		if err := v.check(); err != nil {
			return fmt.Errorf("vCPU %d (%.60q): %w", i, v.Name, err)
		}
		if ops += len(v.Program); ops > maxAllOps {
			return fmt.Errorf("trace has more than %d steps", maxAllOps)
		}
	}
	return nil
}

func (v *VCPU) check() error {
	switch {
	case v.Gang < 0:
		return fmt.Errorf("gang %d is below 0", v.Gang)
	case !(v.Cache >= 0 && v.Cache <= 1):
		return fmt.Errorf("cache %v is not within 0..1", v.Cache)
	case v.Start < 0 || v.Start > maxTime:
		return fmt.Errorf("start %d ns is not within 0..%v", v.Start, maxTime)
	case v.Passes < 0 || v.Passes > maxRepeats:
		return fmt.Errorf("%d passes are not within 0..%d", v.Passes, maxRepeats)
	case len(v.Program) == 0 || len(v.Program) > maxOps:
		return fmt.Errorf("program has %d steps, must have 1 to %d", len(v.Program), maxOps)
	}
	var busy time.Duration
	for i, op := range v.Program {
		if err := op.check(); err != nil {
			return fmt.Errorf("step %d (%.20q): %w", i, op.Op, err)
		}
		if op.Op == Compute || op.Op == Lock || op.Op == Burst {
			busy += op.Time
		}
	}
	if busy < minPass && (v.Forever || v.Passes > 1) {
		return fmt.Errorf("a pass of a repeated program runs for %v, must be at least %v", busy, minPass)
	}
	return nil
}

func (o *Op) check() error {
	switch o.Op {
	case Compute, Sleep, Every, Burst, Lock:
		if o.Time <= 0 || o.Time > maxTime {
			return fmt.Errorf("time %d ns must be more than 0 and at most %v", o.Time, maxTime)
		}
	case Send, Recv:
	default:
		return errors.New("unknown: must be run, sleep, every, burst, send, recv or lock")
	}
	switch {
	case o.ID < 0 || o.ID >= maxID:
		return fmt.Errorf("id %d is not within 0..%d", o.ID, maxID-1)
	case o.Rest < 0 || o.Rest > maxTime:
		return fmt.Errorf("rest %d ns is not within 0..%v", o.Rest, maxTime)
	case o.Times < 0 || o.Times > maxRepeats:
		return fmt.Errorf("%d times are not within 0..%d", o.Times, maxRepeats)
	case !(o.Jitter >= 0 && o.Jitter <= 1):
		return fmt.Errorf("jitter %v is not within 0..1", o.Jitter)
	}
	return nil
}

// Write writes a trace as Read reads it.
func (t *Trace) Write(w io.Writer) error {
	if err := t.Check(); err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	err := e.Encode(t.Header)
	for i := range t.VCPUs {
		if err == nil {
			err = e.Encode(&t.VCPUs[i])
		}
	}
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return fmt.Errorf("writing a trace: %w", err)
	}
	return nil
}

// Read reads a trace and checks it; errors name the line.
func Read(r io.Reader) (*Trace, error) {
	t := &Trace{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		var err error
		switch {
		case t.Version == 0:
			if err = d.Decode(&t.Header); err == nil && t.Version != 1 {
				err = fmt.Errorf("the first line must have \"qenex_trace\":1, has %d", t.Version)
			}
		case len(t.VCPUs) == MaxVCPUs:
			err = fmt.Errorf("more than %d vCPUs", MaxVCPUs)
		default:
			var v VCPU
			err = d.Decode(&v)
			t.VCPUs = append(t.VCPUs, v)
		}
		if err == nil && d.More() {
			err = errors.New("something follows the JSON object")
		}
		if err != nil {
			return nil, fmt.Errorf("trace, line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("trace, after line %d: %w", n, err)
	}
	return t, t.Check()
}
