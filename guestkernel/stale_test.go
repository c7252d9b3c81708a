package guestkernel

import (
	"flag"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/internal/tinyprog"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

var stress = flag.Duration("stress", 500*time.Millisecond, "how long the stress tests run")

// TestStressRemap remaps pages between system calls of programs that move between vCPUs and CPUs all the time, and looks whether one
// sees what was there before.
func TestStressRemap(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		const pages = 512
		fd, err := unix.MemfdCreate("pages", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		content := make([]byte, pages*4096)
		for i := range pages {
			content[i*4096], content[i*4096+1] = byte(i), byte(i>>8)
		}
		if _, err := unix.Pwrite(fd, content, 0); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(*stress)
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 1))
				p, err := m.NewTiny(tinyprog.Code(tinyprog.Read))
				if err != nil {
					t.Error(err)
					return
				}
				contexts := []*Context{m.NewContext(), m.NewContext(), m.NewContext()}
				shown := map[uint64]int{}
				for n := 0; time.Now().Before(deadline); n++ {
					addr := 0x10000000 + rng.Uint64N(8)*4096
					page := rng.IntN(pages)
					if rng.IntN(2) == 0 {
						if err := p.space.Unmap(addr, 4096); err != nil {
							t.Error(err)
						}
					}
					if err := p.space.Map(addr, Backing{Key: fd, FD: fd}, uint64(page)*4096, 4096, Rights{Write: rng.IntN(2) == 0}, false); err != nil {
						t.Error(err)
					}
					shown[addr] = page
					c := contexts[rng.IntN(len(contexts))]
					if n%8 == 0 {
						runtime.LockOSThread()
						var set unix.CPUSet
						set.Set(rng.IntN(runtime.NumCPU()))
						_ = unix.SchedSetaffinity(0, &set)
					}
					for at, want := range shown {
						got, err := p.Run(c, &ring0.Regs{RDI: at})
						if err != nil || got&0xFFFF != uint64(want) {
							t.Errorf("worker %d, round %d: the program reads page %d, mapped is %d (%v)", worker, n, got&0xFFFF, want, err)
							return
						}
					}
					if n%8 == 7 {
						runtime.UnlockOSThread()
					}
					if rng.IntN(4) == 0 {
						c.Sleep()
					}
				}
				for _, c := range contexts {
					c.Release()
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}
