package observe

import (
	"errors"
	"time"
)

// Item is what a scheduler places: the thread of a vCPU, or all threads of a process that hands its vCPUs from thread to thread.
type Item struct {
	Name   string `json:"name"`            // "program[PID]/vcpu0" or "program[PID]"; unique
	PID    int    `json:"pid"`             // the process
	Birth  uint64 `json:"birth"`           // when it started, in clock ticks since boot; 0: not known, nobody checks
	TIDs   []int  `json:"tids"`            // its threads now, sorted
	Whole  bool   `json:"whole,omitempty"` // all threads of the process, later ones too: a native guest
	VM     string `json:"vm"`              // the same for all vCPUs of a VM: the process ID
	Tenant string `json:"tenant"`          // the user ID of the process
	Gang   int    `json:"gang,omitempty"`  // the same for vCPUs that may spin for each other, those of one VM; 0: none
	Pin    []int  `json:"pin,omitempty"`   // IDs of the CPUs that it was confined to when first seen; nil: it was free
}

// Sample is what an item has done since its threads started; of a Whole item, what all its threads have done that lived when it was first read.
// The difference of two samples (see Since) is what it did in between.
type Sample struct {
	Run         time.Duration `json:"run"`         // on a CPU
	Wait        time.Duration `json:"wait"`        // ready, and waiting for a CPU
	Slices      uint64        `json:"slices"`      // times that it was put on a CPU
	Voluntary   uint64        `json:"voluntary"`   // times that it went to sleep
	Involuntary uint64        `json:"involuntary"` // times that it had to make way
	CPU         int           `json:"cpu"`         // ID of the CPU it was last on; of a Whole item, the thread that ran most since the last reading
	Threads     int           `json:"threads"`     // how many live now
	At          time.Time     `json:"at"`
}

// ErrGone says that an item's threads have ended.
var ErrGone = errors.New("the guest's threads have ended")

// Since returns what was done between an earlier sample and this one, and the time that passed. Nothing in it is negative.
func (s Sample) Since(earlier Sample) (delta Sample, dt time.Duration) {
	delta = s
	delta.Run = max(0, s.Run-earlier.Run)
	delta.Wait = max(0, s.Wait-earlier.Wait)
	delta.Slices = since(s.Slices, earlier.Slices)
	delta.Voluntary = since(s.Voluntary, earlier.Voluntary)
	delta.Involuntary = since(s.Involuntary, earlier.Involuntary)
	return delta, max(0, s.At.Sub(earlier.At))
}

func since(now, then uint64) uint64 {
	if now < then {
		return 0
	}
	return now - then
}
