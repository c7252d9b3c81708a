// Package process names processes so that a process ID which was used again is never taken for the process it once was: by the ID and the
// time the process started. What the processes do does not enter.
package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process has ended.
var ErrGone = errors.New("the process has ended")

// ID is one process for all time, until the next boot.
type ID struct {
	PID   int    `json:"pid"`
	Birth uint64 `json:"birth"` // clock ticks since boot
}

// Self is this process.
func Self() (ID, error) { return Find(os.Getpid()) }

// Find names the process that has a process ID now.
func Find(pid int) (ID, error) {
	birth, _, err := stat(pid)
	return ID{pid, birth}, err
}

// Alive tells whether the process still runs. A zombie does not.
func (id ID) Alive() bool {
	birth, state, err := stat(id.PID)
	return err == nil && birth == id.Birth && state != 'Z' && state != 'X'
}

// Kill sends SIGKILL to this very process and waits until it has ended. If it had already, the error is ErrGone.
func (id ID) Kill() error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err == unix.ESRCH || err == nil && !id.Alive() {
		if err == nil {
			unix.Close(fd)
		}
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("killing process %d: %w", id.PID, err)
	}
	for id.Alive() {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting for process %d: %w", id.PID, err)
		}
	}
	return nil
}

func stat(pid int) (birth uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parse(string(b))
}

// parse reads fields 3 and 22; field 2, a name in brackets, may hold anything.
func parse(text string) (birth uint64, state byte, err error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("process status %.200q is cut off", text)
	}
	birth, err = strconv.ParseUint(fields[19], 10, 64)
	return birth, fields[0][0], err
}
