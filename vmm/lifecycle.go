package vmm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/qenex/qenex-kernel/vcpu"
)

// ErrEnded says that the machine has ended and cannot run any more.
var ErrEnded = errors.New("machine has ended")

// Start lets the guest run.
func (m *Machine) Start() error {
	if m.cfg.Input != nil {
		ctx, cancel := context.WithCancel(context.Background())
		m.stopInput = cancel
		m.input.Go(func() {
			// Its error is ctx's, or the terminal's, which whoever gave the reader handles.
			_ = m.serial.Input(ctx, m.cfg.Input)
		})
	}
	m.milestone("started")
	m.events.publish(EventStarted, -1, "")
	for _, v := range m.vcpus {
		if err := v.Start(); err != nil && !m.hasEnded() {
			return err
		}
		// The guest may end the machine on its first vCPU before the others have begun.
	}
	return nil
}

// Pause makes every vCPU leave the guest and waits until all have.
func (m *Machine) Pause(ctx context.Context) error {
	for _, v := range m.vcpus {
		if err := v.Pause(ctx); err != nil {
			return errors.Join(err, m.resumeAll())
		}
	}
	m.events.publish(EventPaused, -1, "")
	return nil
}

// Resume lets a paused machine run again.
func (m *Machine) Resume() error {
	if err := m.resumeAll(); err != nil {
		return err
	}
	m.events.publish(EventResumed, -1, "")
	return nil
}

// resumeAll resumes the vCPUs that are paused.
func (m *Machine) resumeAll() error {
	var errs []error
	for _, v := range m.vcpus {
		if s := v.State(); s == vcpu.Running || s == vcpu.Paused {
			errs = append(errs, v.Resume())
		}
	}
	return errors.Join(errs...)
}

// Stop ends the machine and waits until no vCPU runs. It may be called at any time, more than once.
func (m *Machine) Stop(ctx context.Context) error {
	m.end(Outcome{Cause: Ended})
	for _, v := range m.vcpus {
		if err := v.Stop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end settles how the machine ended, if it has not yet, and makes all vCPUs stop without waiting: it is
// called from vCPU threads.
func (m *Machine) end(o Outcome) {
	m.mu.Lock()
	if m.outcome != nil {
		m.mu.Unlock()
		return
	}
	m.outcome = &o
	m.milestones = append(m.milestones, Milestone{"ended", time.Since(m.began)})
	close(m.ended)
	m.mu.Unlock()
	for _, v := range m.vcpus {
		v.RequestStop()
	}
	m.events.publish(EventEnded, -1, o.String())
}

func (m *Machine) hasEnded() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// flushTime bounds how long Wait lets a slow console take the guest's last output.
const flushTime = 5 * time.Second

// Wait blocks until the machine has ended, no vCPU runs, all virtio devices have stopped and the console has the guest's last
// output, and returns how it ended. When ctx is done first it returns ctx's error.
func (m *Machine) Wait(ctx context.Context) (Outcome, error) {
	select {
	case <-m.ended:
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	for _, v := range m.vcpus {
		if err := v.Stop(ctx); err != nil {
			return Outcome{}, err
		}
	}
	devices := m.stopVirtio()
	m.stopTPM()
	flush, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	err := m.serial.Flush(flush)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && m.outcome.Cause != Ended {
		return *m.outcome, errors.Join(devices, fmt.Errorf("the guest's last console output: %w", err))
	}
	return *m.outcome, devices
}

// onFault decides about a vCPU that cannot go on: the machine ends.
func (m *Machine) onFault(v *vcpu.VCPU, f *vcpu.Fault) bool {
	m.events.publish(EventFault, v.ID(), f.Error())
	cause := GuestFault
	if f.Kind == vcpu.FaultTripleFault {
		cause = TripleFault
	}
	m.end(Outcome{Cause: cause, Detail: f.Error(), Err: f})
	return false
}
