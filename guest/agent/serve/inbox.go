package serve

import (
	"fmt"
	"sync"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// inbox holds the input that a process has not taken: at most wire.Window bytes, which the host keeps to.
type inbox struct {
	mu      sync.Mutex // below
	changed *sync.Cond
	waiting []byte
	ended   bool
}

func newInbox() *inbox {
	i := &inbox{}
	i.changed = sync.NewCond(&i.mu)
	return i
}

// put adds input.
func (i *inbox) put(b []byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return nil // nobody will take it
	}
	if len(i.waiting)+len(b) > wire.Window {
		return fmt.Errorf("%w: more than %d bytes of input that were not credited", wire.ErrFrame, wire.Window)
	}
	i.waiting = append(i.waiting, b...)
	i.changed.Signal()
	return nil
}

// end says that no input will come. close says that none will be taken.
func (i *inbox) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	i.changed.Signal()
}

func (i *inbox) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended, i.waiting = true, nil
	i.changed.Signal()
}

// take waits for input and takes all of it. At the end there is no more.
func (i *inbox) take() (b []byte, end bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.waiting) == 0 && !i.ended {
		i.changed.Wait()
	}
	b, i.waiting = i.waiting, nil
	return b, i.ended
}
