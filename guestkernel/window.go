package guestkernel

import (
	"fmt"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/kvm"
)

// Guest-physical layout: the arena from 0 on, then memory slots of slotSize each.
const (
	slotBase = 4 << 30
	slotSize = 128 << 20
	maxSlots = 2048 // 256 GiB, well below what the smallest physical address width allows

	windowSize = 2 << 20
)

// Backing is what a mapping shows: a part of a host file. Backings with the same Key are the same file.
type Backing struct {
	Key   any  // comparable
	FD    int  // needed during the call only
	Large bool // the sandbox's own memory: mapped in units of a whole slot, writable
}

// window is a part of a host file that the guest can be shown: at gpa, size bytes, from offset on.
type window struct {
	key      windowKey
	gpa      uint64
	mem      []byte
	mappings int // leaf entries that point into it, in all address spaces; protected by windows.mu
}

type windowKey struct {
	file     any
	index    uint64 // offset in units of the window's size
	writable bool
	large    bool
}

// windows is the part of guest-physical memory that shows files.
type windows struct {
	vm *kvm.VM

	mu    sync.Mutex
	slots [][]byte // host memory of each slot; protected by mu
	byKey map[windowKey]*window
	byGPA map[uint64]*window // small windows, by gpa; protected by mu
	free  []uint64           // gpas of small windows that show nothing; protected by mu
}

// maxIdle is how many small windows without a mapping are kept: programs are started again and again.
const maxIdle = 256

func newWindows(vm *kvm.VM) *windows {
	return &windows{vm: vm, byKey: make(map[windowKey]*window), byGPA: make(map[uint64]*window)}
}

// get returns the window that shows the given offset of a file.
func (w *windows) get(b Backing, offset uint64, writable bool) (*window, error) {
	size := uint64(windowSize)
	if b.Large {
		size, writable = slotSize, true
	}
	key := windowKey{b.Key, offset / size, writable, b.Large}
	w.mu.Lock()
	defer w.mu.Unlock()
	if win := w.byKey[key]; win != nil {
		return win, nil
	}
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	win := &window{key: key}
	if b.Large {
		mem, err := unix.Mmap(b.FD, int64(key.index*size), int(size), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
		if err != nil {
			return nil, fmt.Errorf("map the sandbox's memory at offset %#x: %w", key.index*size, err)
		}
		if win.gpa, err = w.addSlot(mem); err != nil {
			return nil, err
		}
		win.mem = mem
		w.byKey[key] = win
		return win, nil
	}
	if len(w.free) == 0 {
		if err := w.reserve(); err != nil {
			return nil, err
		}
	}
	win.gpa = w.free[len(w.free)-1]
	win.mem = w.at(win.gpa, size)
	if err := mapFixed(win.mem, b.FD, key.index*size, prot); err != nil {
		return nil, fmt.Errorf("map a file at offset %#x: %w", key.index*size, err)
	}
	w.free = w.free[:len(w.free)-1]
	w.byKey[key] = win
	w.byGPA[win.gpa] = win
	return win, nil
}

// addSlot makes host memory visible to the guest. The caller holds mu.
func (w *windows) addSlot(mem []byte) (gpa uint64, err error) {
	n := len(w.slots)
	if n == maxSlots {
		return 0, fmt.Errorf("the VM's memory is full: %d slots of %d MiB", maxSlots, slotSize>>20)
	}
	gpa = slotBase + uint64(n)*slotSize
	if err := w.vm.SetMemory(uint32(firstSlot+n), 0, gpa, mem); err != nil {
		return 0, err
	}
	w.slots = append(w.slots, mem)
	return gpa, nil
}

// reserve adds a slot of empty small windows, or takes windows that have no mappings any more. The caller holds mu.
func (w *windows) reserve() error {
	var idle []*window
	for _, win := range w.byGPA {
		if win.mappings == 0 {
			idle = append(idle, win)
		}
	}
	if len(idle) > maxIdle {
		for _, win := range idle {
			if err := unmapFixed(win.mem); err != nil {
				return fmt.Errorf("empty a window: %w", err)
			}
			delete(w.byKey, win.key)
			delete(w.byGPA, win.gpa)
			w.free = append(w.free, win.gpa)
		}
		return nil
	}
	mem, err := unix.Mmap(-1, 0, slotSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("reserve %d bytes for files: %w", slotSize, err)
	}
	gpa, err := w.addSlot(mem)
	if err != nil {
		return err
	}
	for off := uint64(slotSize); off > 0; off -= windowSize {
		w.free = append(w.free, gpa+off-windowSize)
	}
	return nil
}

// at returns the host memory of n bytes at gpa, which lie in one slot. The caller holds mu.
func (w *windows) at(gpa, n uint64) []byte {
	off := gpa - slotBase
	return w.slots[off/slotSize][off%slotSize : off%slotSize+n]
}

// byteAt returns the byte at gpa, 0 if the host has no memory there (a file has become shorter).
func (w *windows) byteAt(gpa uint64) (b byte) {
	w.mu.Lock()
	mem := w.at(gpa, 1)
	w.mu.Unlock()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			b = 0
		}
	}()
	return mem[0]
}

// count adds to the number of mappings of the small window around gpa.
func (w *windows) count(gpa uint64, delta int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if win := w.byGPA[gpa&^(windowSize-1)]; win != nil { // else a large window: it stays for good
		win.mappings += delta
	}
}

// forget makes KVM drop every translation to the n bytes at gpa, and the CPUs with it.
func (w *windows) forget(gpa, n uint64) error {
	for n > 0 {
		part := min(n, slotSize-(gpa-slotBase)%slotSize)
		w.mu.Lock()
		mem := w.at(gpa, part)
		w.mu.Unlock()
		if err := unix.Madvise(mem, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("drop translations to %d bytes at gpa %#x: %w", part, gpa, err)
		}
		gpa += part
		n -= part
	}
	return nil
}

func (w *windows) close() (err error) {
	for _, mem := range w.slots {
		if e := unix.Munmap(mem); e != nil && err == nil {
			err = fmt.Errorf("unmap guest memory: %w", e)
		}
	}
	w.slots = nil
	return err
}
