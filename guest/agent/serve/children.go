package serve

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Children starts processes and waits for all children of this process: as a guest's init it inherits those whose parents end.
// Nothing else in this process may start any.
type Children struct {
	mu      sync.Mutex // below; held from fork to registration, so that none is reaped unknown
	running map[int]chan<- syscall.WaitStatus
}

// Start runs a program. Its status comes on the channel when it has ended.
func (c *Children) Start(program string, args []string, attr *syscall.ProcAttr) (pid int, status <-chan syscall.WaitStatus, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pid, err = syscall.ForkExec(program, args, attr); err != nil {
		return 0, nil, &os.PathError{Op: "start", Path: program, Err: err}
	}
	if c.running == nil {
		c.running = make(map[int]chan<- syscall.WaitStatus)
	}
	end := make(chan syscall.WaitStatus, 1)
	c.running[pid] = end
	return pid, end, nil
}

// Signal sends a signal to the process group of a process that Start started, if the process has not ended.
func (c *Children) Signal(pid int, s syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.running[pid]; !ok {
		return nil // ended: the number may be another's by now
	}
	return syscall.Kill(-pid, s)
}

// Reap takes the status of each child that has ended. It is called on each SIGCHLD, and tells whether children are left.
func (c *Children) Reap() bool {
	for {
		c.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|unix.WALL, nil)
		if end, ok := c.running[pid]; ok && err == nil {
			delete(c.running, pid)
			end <- status
		}
		c.mu.Unlock()
		if pid <= 0 && err != syscall.EINTR {
			return err == nil
		}
	}
}
