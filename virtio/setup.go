package virtio

import "fmt"

// NumQueues returns how many queues the device has.
func (in *Instance) NumQueues() int { return len(in.bells) }

// Bell returns the eventfd whose signal means that the driver rang for queue i, which exists. It stays the instance's.
func (in *Instance) Bell(i int) int { return in.bells[i].fd }

// Ring rings for queue i; one that does not exist is ignored.
func (in *Instance) Ring(i uint32) {
	if uint64(i) >= uint64(len(in.bells)) {
		return
	}
	if err := in.bells[i].ring(); err != nil {
		in.Fail(err)
	}
}

// edit calls f with the setup of queue i, if it exists and the driver may still change it.
func (in *Instance) edit(i uint32, f func(s *queueSetup)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if uint64(i) < uint64(len(in.setup)) && !in.setup[i].ready && !in.running {
		f(&in.setup[i])
	}
}

// look returns the setup of queue i, an empty one if it does not exist.
func (in *Instance) look(i uint32) queueSetup {
	in.mu.Lock()
	defer in.mu.Unlock()
	if uint64(i) >= uint64(len(in.setup)) {
		return queueSetup{}
	}
	return in.setup[i]
}

// QueueMax returns the most descriptors of queue i, 0 if it does not exist.
func (in *Instance) QueueMax(i uint32) uint16 { return in.look(i).max }

// QueueSize returns how many descriptors the driver chose for queue i.
func (in *Instance) QueueSize(i uint32) uint16 { return in.look(i).size }

// QueueReady says whether queue i is enabled.
func (in *Instance) QueueReady(i uint32) bool { return in.look(i).ready }

// QueueAddr returns where an area of queue i lies.
func (in *Instance) QueueAddr(i uint32, r Ring) uint64 { return in.look(i).addr[r] }

// SetQueueSize chooses the descriptors of queue i. An enabled queue keeps what it has.
func (in *Instance) SetQueueSize(i uint32, n uint32) {
	in.edit(i, func(s *queueSetup) { s.size = uint16(min(n, MaxQueueSize+1)) })
}

// SetQueueAddr replaces the bits of mask in the address of an area. An enabled queue keeps what it has.
func (in *Instance) SetQueueAddr(i uint32, r Ring, bits, mask uint64) {
	in.edit(i, func(s *queueSetup) { s.addr[r] = s.addr[r]&^mask | bits&mask })
}

// EnableQueue enables queue i, after checking its size and where its areas lie.
func (in *Instance) EnableQueue(i uint32) {
	in.edit(i, func(s *queueSetup) {
		if err := in.place(s); err != nil {
			in.Fail(fmt.Errorf("%w: queue %d: %w", ErrProtocol, i, err))
			return
		}
		s.ready = true
	})
}

// DisableQueue is the driver's wish to take queue i back. While the device runs only a reset does that.
func (in *Instance) DisableQueue(i uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if uint64(i) >= uint64(len(in.setup)) || !in.setup[i].ready {
		return
	}
	in.setup[i].ready = false
	if in.running {
		in.Fail(fmt.Errorf("%w: queue %d is disabled while the device runs", ErrProtocol, i))
	}
}

// place finds the areas of a queue in guest memory (virtio 1.2, 2.7).
func (in *Instance) place(s *queueSetup) error {
	if s.size == 0 || s.size > s.max || s.size&(s.size-1) != 0 {
		return fmt.Errorf("%d descriptors; a power of two up to %d is needed", s.size, s.max)
	}
	n := uint64(s.size)
	for r, area := range [...]struct {
		name        string
		size, align uint64
	}{
		Descriptors: {"descriptor table", descSize * n, 16},
		Available:   {"available ring", availHeader + availEntry*n + 2, 2},
		Used:        {"used ring", usedHeader + usedEntry*n + 2, 4},
	} {
		if s.addr[r]%area.align != 0 {
			return fmt.Errorf("%s at gpa %#x is not %d-byte aligned", area.name, s.addr[r], area.align)
		}
		var err error
		if s.views[r], err = in.mem.View(s.addr[r], area.size); err != nil {
			return fmt.Errorf("%s: %w", area.name, err)
		}
	}
	return nil
}
