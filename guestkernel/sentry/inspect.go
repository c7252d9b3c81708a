package sentry

import (
	"sort"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// Pause stops every program before its next instruction; system calls under way are interrupted and go on after Resume.
func (s *Sandbox) Pause() error {
	if _, err := s.started(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.paused {
		s.k.Pause()
		s.paused = true
	}
	return nil
}

// Resume lets paused programs run on.
func (s *Sandbox) Resume() error {
	if _, err := s.started(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused {
		s.k.Unpause()
		s.paused = false
	}
	return nil
}

// PIDs lists the processes inside, lowest PID first.
func (s *Sandbox) PIDs() ([]Process, error) {
	if _, err := s.started(); err != nil {
		return nil, err
	}
	ns := s.k.TaskSet().Root
	var list []Process
	for _, tg := range ns.ThreadGroups() {
		pid := ns.IDOfThreadGroup(tg)
		leader := tg.Leader()
		if pid == 0 || leader == nil {
			continue // reaped
		}
		p := Process{
			PID:     int(pid),
			Threads: tg.Count(),
			State:   leader.StateStatus()[:1],
			Args:    []string{leader.Name()},
			UID:     uint32(leader.Credentials().EffectiveKUID),
		}
		if parent := leader.Parent(); parent != nil {
			p.PPID = int(ns.IDOfThreadGroup(parent.ThreadGroup()))
		}
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].PID < list[j].PID })
	return list, nil
}

// Stats reads the counters.
func (s *Sandbox) Stats() Stats {
	var st Stats
	for _, tg := range s.threadGroups() {
		st.Processes++
		st.Threads += tg.Count()
	}
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		st.MemoryBytes = s.backend.mostAtExit.Load()
	} else if n, err := s.k.MemoryFile().TotalUsage(); err == nil {
		st.MemoryBytes = n
	}
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		st.CPUTimeNanos = uint64(ru.Utime.Nano() + ru.Stime.Nano())
	}
	if s.gateway != nil {
		n := s.gateway.Stats()
		st.RxBytes, st.TxBytes = n.ToGuest, n.FromGuest
	}
	s.backend.count(&st)
	return st
}

// threadGroups are the processes inside that live.
func (s *Sandbox) threadGroups() []*kernel.ThreadGroup {
	if _, err := s.started(); err != nil {
		return nil
	}
	return s.k.TaskSet().Root.ThreadGroups()
}
