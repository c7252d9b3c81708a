package platform

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
)

// addressSpace is a process's memory.
type addressSpace struct {
	platform.NoAddressSpaceIO
	inner *guestkernel.AddressSpace
}

// MapFile implements platform.AddressSpace. The window of a host file lives longer than the mapping; the file itself is
// the key to it, so it stays reachable as long.
func (a *addressSpace) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, precommit bool) error {
	fd, err := f.DataFD(fr)
	if err != nil {
		return err
	}
	_, own := f.(*pgalloc.MemoryFile)
	b := guestkernel.Backing{Key: f, FD: fd, Large: own}
	if err := a.inner.Map(uint64(addr), b, fr.Start, fr.Length(), guestkernel.Rights{Write: at.Write, Execute: at.Execute}, precommit); err != nil {
		log.Warningf("Map %#x bytes at %#x: %v", fr.Length(), addr, err)
		return linuxerr.ENOMEM // the Sentry takes errors for system calls only
	}
	return nil
}

// Unmap implements platform.AddressSpace. It cannot report an error, and a mapping that stays would break the isolation of
// processes, so an error ends the sandbox.
func (a *addressSpace) Unmap(addr hostarch.Addr, length uint64) {
	if err := a.inner.Unmap(uint64(addr), length); err != nil {
		panic(fmt.Sprintf("unmap %#x bytes at %#x: %v", length, addr, err))
	}
}

// Release implements platform.AddressSpace.
func (a *addressSpace) Release() {
	if err := a.inner.Release(); err != nil {
		panic(fmt.Sprintf("release an address space: %v", err))
	}
}

// PreFork implements platform.AddressSpace.
func (*addressSpace) PreFork() {}

// PostFork implements platform.AddressSpace.
func (*addressSpace) PostFork() {}
