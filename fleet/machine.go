package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ErrUnsupported says that a machine lacks what a request needs; the text around it says what to start it with.
var ErrUnsupported = errors.New("this machine cannot do that")

// Machine is what the server drives. Methods may be called from any goroutine, also after the machine has ended.
type Machine interface {
	Status() Status
	Pause(ctx context.Context) error // does nothing to a machine that is paused
	Resume() error                   // does nothing to a machine that runs
	Shutdown(ctx context.Context) error
	Kill()
	Done() <-chan struct{} // closed when the guest has ended for good
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	Guest(ctx context.Context) (Guest, error)
	Balloon() (Balloon, error)
	SetBalloon(bytes uint64) error
	Metrics() []Metric
}

// Guest is what the agent in the guest does.
type Guest interface {
	Exec(ctx context.Context, c Command, stdin io.Reader, stdout, stderr io.Writer) (code int, err error)
	CopyIn(ctx context.Context, dir string, tar io.Reader) error
	CopyOut(ctx context.Context, path string, tar io.Writer) error
}

// Command is a program that the agent runs.
type Command struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"`
}

// States of a machine.
const (
	StateStarting = "starting" // not yet as far as --wait waits for
	StateRunning  = "running"
	StatePaused   = "paused"
	StateStopping = "stopping" // the guest was asked to power off
	StateEnded    = "ended"    // has an Outcome
	StateDead     = "dead"     // its process was killed
	StateSilent   = "silent"   // its process runs and does not answer
)

// Status is what a machine is doing.
type Status struct {
	State       string        `json:"state"`
	Agent       string        `json:"agent"`                  // none, waiting or ready
	CommandCode *int          `json:"command_code,omitempty"` // exit code of Spec.Command, once it has ended
	Boots       int           `json:"boots"`
	Uptime      time.Duration `json:"uptime_ns"`
	MemoryUsed  uint64        `json:"memory_used_bytes"` // of the guest's memory, what it has touched
}

// Info is what inspect says.
type Info struct {
	Spec
	Status
	PID     int      `json:"pid"`
	Dir     string   `json:"dir"`
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Balloon is a memory balloon, in bytes.
type Balloon struct {
	Target   uint64            `json:"target_bytes"`    // what the guest is asked to give up
	Actual   uint64            `json:"actual_bytes"`    // what it has given up
	Reported uint64            `json:"reported_bytes"`  // what it has reported as free, ever
	Stats    map[string]uint64 `json:"stats,omitempty"` // what the guest says of its memory
}

// MetricKind is a Prometheus type.
type MetricKind string

// Kinds of metrics.
const (
	Counter MetricKind = "counter"
	Gauge   MetricKind = "gauge"
)

// Metric is one sample. Samples of one name stand together.
type Metric struct {
	Name   string // without the prefix qenex_
	Help   string
	Kind   MetricKind
	Labels [][2]string // name and value
	Value  float64
}

func errNoLog(stream string) error { return fmt.Errorf("log %q: it is console or output", stream) }

// logFiles are the logs of a machine by their names in requests.
var logFiles = map[string]string{"console": consoleFile, "output": outputFile}
