package guestkernel

import (
	"fmt"

	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// Core returns all that is in the VM beside the program, for who wants its digest: the tables, and the system-call stubs for both levels at
// which SYSCALL can arrive.
func Core() ([]byte, error) {
	core := make([]byte, ring0.CorePages*ring0.PageSize)
	ring0.WriteTables(core)
	for _, e := range []ring0.Entry{ring0.EntryCPL0, ring0.EntryCPL3} {
		stub, err := ring0.NewStub(e)
		if err != nil {
			return nil, fmt.Errorf("the ring-0 core: %w", err)
		}
		core = append(core, stub.For(0)...)
	}
	return core, nil
}
