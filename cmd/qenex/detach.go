package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
)

// upMessage is what a detached machine tells the command that started it.
type upMessage struct {
	Name  string `json:"name,omitempty"`
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// maxUp bounds an upMessage, in bytes.
const maxUp = 64 << 10

// detach starts this command line once more, in a session of its own, and returns when the machine is up.
func (c *runCmd) detach() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	args := liftGlobals(os.Args[1:])
	cmd := exec.Command("/proc/self/exe", slices.Insert(args, 1, "--ready")...)
	cmd.Args[0] = "qenex"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{write} // and no standard files: they would keep those of the caller open
	err = cmd.Start()
	write.Close()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(read, maxUp))
	var m upMessage
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil || m.Code != 0 {
		werr := cmd.Wait()
		if m.Error == "" {
			return fmt.Errorf("the process for the machine ended at once: %w", errors.Join(err, werr))
		}
		return &exitError{m.Code, errors.New(m.Error)}
	}
	_, err = fmt.Println(m.Name)
	return errors.Join(err, cmd.Process.Release())
}

// detached runs the machine for detach.
func (c *runCmd) detached() error {
	var once sync.Once
	say := func(m upMessage) (err error) {
		once.Do(func() {
			m.Error = m.Error[:min(len(m.Error), maxUp/8)] // a byte may take six in JSON
			var b []byte
			if b, err = json.Marshal(m); err == nil {
				f := os.NewFile(3, "up")
				_, err = f.Write(b)
				err = errors.Join(err, f.Close())
			}
		})
		return err
	}
	err := c.machineError(c.run(func(name string) error { return say(upMessage{Name: name}) }))
	m := upMessage{Error: "the machine ended before it was up", Code: max(codeOf(err), exitFailure)}
	var e *exitError
	if err != nil && !(errors.As(err, &e) && e.err == nil) {
		m.Error = oneLine(err)
	}
	return errors.Join(err, say(m))
}
