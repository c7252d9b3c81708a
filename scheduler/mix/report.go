package mix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// What a guest prints on standard error: readyLine, and reportMark with its report behind it on one line.
const (
	readyLine  = "QENEX-MIX ready"
	reportMark = "QENEX-MIX report "
)

// Bounds of what guests say.
const (
	mostLength = time.Hour // of a measurement
	mostOps    = 1 << 48
	mostOutput = 64 << 10 // bytes of standard error that are looked at
)

// A Report is what a guest says of itself.
type Report struct {
	Kind    Kind          `json:"kind"`
	Ops     uint64        `json:"ops"`     // units computed, locks held, round trips, bursts
	Elapsed time.Duration `json:"elapsed"` // by the guest's clock
	Times   Histogram     `json:"times"`   // of locks, round trips, lateness of wake-ups
}

func (r *Report) write(w io.Writer) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("load: report: %w", err)
	}
	if _, err = w.Write(append(append([]byte(reportMark), text...), '\n')); err != nil {
		return fmt.Errorf("load: report: %w", err)
	}
	return nil
}

// parseReport finds the report in what a guest printed, and refuses one that cannot be true of its kind and of a measurement of this length.
func parseReport(output []byte, kind Kind, length time.Duration) (*Report, error) {
	for line := range bytes.Lines(output) {
		text, ok := bytes.CutPrefix(line, []byte(reportMark))
		if !ok {
			continue
		}
		var r Report
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			return nil, fmt.Errorf("report of a guest: %w", err)
		}
		timed := r.Times.Count()
		switch {
		case r.Kind != kind:
			return nil, fmt.Errorf("report of a guest: kind %.20q, started as %q", r.Kind, kind)
		case r.Elapsed <= 0 || r.Elapsed > 2*length+time.Minute:
			return nil, fmt.Errorf("report of a guest: %v passed in a measurement of %v", r.Elapsed, length)
		case r.Ops > mostOps || timed > 0 && timed != r.Ops:
			return nil, fmt.Errorf("report of a guest: %d operations, %d measured", r.Ops, timed)
		}
		return &r, nil
	}
	return nil, fmt.Errorf("no report of a guest in what it printed: %.300q", output)
}
