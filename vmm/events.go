package vmm

import (
	"sync"
	"time"
)

// EventKind names what happened to a machine.
type EventKind string

// Kinds of events.
const (
	EventCreated   EventKind = "created"
	EventStarted   EventKind = "started"
	EventPaused    EventKind = "paused"
	EventResumed   EventKind = "resumed"
	EventMilestone EventKind = "milestone"
	EventFault     EventKind = "fault"
	EventDevice    EventKind = "device" // about a virtio device; mostly that it needs a reset, and why
	EventEnded     EventKind = "ended"
)

// Event is one thing that happened to a machine.
type Event struct {
	Time time.Time
	Kind EventKind
	VCPU int    // -1 when it concerns no single vCPU
	Text string // EventMilestone: its name; else for people
}

// stream hands every event to all subscribers. A subscriber that does not keep up loses
// those that find its channel full; the machine never waits.
type stream struct {
	mu   sync.Mutex
	subs map[int]chan Event // protected by mu
	next int                // protected by mu
}

func (s *stream) publish(kind EventKind, vcpu int, text string) {
	e := Event{Time: time.Now(), Kind: kind, VCPU: vcpu, Text: text}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range s.subs {
		select {
		case ch <- e:
		default:
		}
	}
}

// Subscribe returns the machine's events from now on, in a channel that holds buffer of them
// and is closed by cancel. Events that find it full are dropped.
func (m *Machine) Subscribe(buffer int) (events <-chan Event, cancel func()) {
	s := &m.events
	ch := make(chan Event, buffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		s.subs = make(map[int]chan Event)
	}
	id := s.next
	s.next++
	s.subs[id] = ch
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.subs[id]; ok {
			delete(s.subs, id)
			close(ch)
		}
	}
}
