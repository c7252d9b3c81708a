package guestkernel

import "sync/atomic"

type counters struct {
	syscalls, exitless, exits, faults, kicks, modes, flushes, flushAll, vcpus, migrations atomic.Uint64
}

// Stats count what happened since the machine was made.
type Stats struct {
	Syscalls    uint64 `json:"syscalls"`
	Exitless    uint64 `json:"exitless"`     // system calls that needed no exit
	Exits       uint64 `json:"exits"`        // from the VM
	Faults      uint64 `json:"faults"`       // exceptions of programs
	Kicks       uint64 `json:"kicks"`        // interruptions of running programs
	ModeChanges uint64 `json:"mode_changes"` // between direct and exit-less
	Migrations  uint64 `json:"migrations"`   // of a context to another vCPU
	Flushes     uint64 `json:"flushes"`      // of translations to some pages
	FullFlushes uint64 `json:"full_flushes"` // of all translations
	VCPUs       uint64 `json:"vcpus"`        // made
}

// Stats returns the counts so far. It may be called at any time.
func (m *Machine) Stats() Stats {
	c := &m.stats
	return Stats{
		Syscalls: c.syscalls.Load(), Exitless: c.exitless.Load(), Exits: c.exits.Load(), Faults: c.faults.Load(), Kicks: c.kicks.Load(),
		ModeChanges: c.modes.Load(), Migrations: c.migrations.Load(), Flushes: c.flushes.Load(), FullFlushes: c.flushAll.Load(), VCPUs: c.vcpus.Load(),
	}
}
