package simulate

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Calibration is what a machine charges. Arrays are by distance: the same CPU, core, last-level cache, node, package, and farther.
type Calibration struct {
	Machine string           `json:"machine,omitempty"`
	Switch  time.Duration    `json:"switch_ns"` // from one vCPU to another
	Wake    [6]time.Duration `json:"wake_ns"`   // of an idle CPU by a waker on another
	Refill  [6]time.Duration `json:"refill_ns"` // of its cache, after a migration, by a vCPU whose Cache is 1
	Line    [6]time.Duration `json:"line_ns"`   // a cache line's way from one CPU to another: the price of a lock's or a message's handover
	SMT     float64          `json:"smt"`       // speed of a thread while its sibling runs too, more than 0, at most 1
	Tick    time.Duration    `json:"tick_ns"`   // when vCPUs whose slice is over are preempted
	Slice   time.Duration    `json:"slice_ns"`  // 0: as Linux chooses it for so many CPUs
	PLE     time.Duration    `json:"ple_ns"`    // a vCPU that has spun for so long yields (pause-loop exiting); 0: never
	Plan    time.Duration    `json:"plan_ns"`   // what planning costs for each vCPU
	Assumed []string         `json:"assumed,omitempty"`
}

// Check tells what is wrong with a calibration.
func (c *Calibration) Check() error {
	times := []time.Duration{c.Switch, c.PLE, c.Plan}
	times = append(append(append(times, c.Wake[:]...), c.Refill[:]...), c.Line[:]...)
	for _, d := range times {
		if d < 0 || d > time.Second {
			return fmt.Errorf("calibration: a cost is %v, must be 0 to 1s", d)
		}
	}
	switch {
	case !(c.SMT > 0 && c.SMT <= 1):
		return fmt.Errorf("calibration: SMT factor %v must be more than 0 and at most 1", c.SMT)
	case c.Tick < 10*time.Microsecond || c.Tick > time.Second:
		return fmt.Errorf("calibration: tick %v must be 10us to 1s", c.Tick)
	case c.Slice != 0 && (c.Slice < 10*time.Microsecond || c.Slice > time.Second):
		return fmt.Errorf("calibration: slice %v must be 0 or 10us to 1s", c.Slice)
	}
	return nil
}

// ReadCalibration reads JSON as Calibrate's result is encoded.
func ReadCalibration(r io.Reader) (*Calibration, error) {
	d := json.NewDecoder(io.LimitReader(r, 1<<20))
	d.DisallowUnknownFields()
	c := &Calibration{}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("reading a calibration: %w", err)
	}
	return c, c.Check()
}

// DefaultCalibration is what the machine of the tests charges, two cores of an EPYC in a VM:
//
//	QENEX_CALIBRATE=1 go test -run TestCalibrate -v ./scheduler/simulate
//
// What that machine does not have, SMT and larger distances, is assumed; Assumed says what.
func DefaultCalibration() *Calibration {
	c := &Calibration{
		Machine: "2 CPUs, linux/amd64", Switch: 1800, Tick: 4 * time.Millisecond, Plan: 10 * time.Microsecond, SMT: 0.62,
	}
	c.far(21_000, 31_000, 28)
	return c
}

// far sets costs by distance from those between two CPUs that share a cache.
func (c *Calibration) far(wake, refill, line time.Duration) {
	for i, f := range [6]float64{0, 1, 1, 1.2, 1.3, 1.6} {
		c.Wake[i] = time.Duration(f * float64(wake))
	}
	for i, f := range [6]float64{0, 0, 1, 3, 3, 6} {
		c.Refill[i] = time.Duration(f * float64(refill))
	}
	for i, f := range [6]float64{0, 0.3, 1, 2, 2.5, 5} {
		c.Line[i] = time.Duration(f * float64(line))
	}
}
