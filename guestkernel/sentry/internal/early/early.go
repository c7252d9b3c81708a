// Package early holds what has to be done before the Sentry's packages come to life, or is best begun while they do.
//
// It imports only the Sentry's ground floor: the Go runtime initialises a package as soon as all that it imports is ready, so this one
// comes long before the rest. Nothing about a guest may enter.
package early

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/log"
)

// relay is the emitter of the Sentry's logger. Many of its packages keep the logger that they find at their initialisation for good, so
// it is this one logger that is redirected, and never another one made.
type relay struct{ to atomic.Pointer[log.Emitter] }

// Emit implements log.Emitter.
func (r *relay) Emit(depth int, level log.Level, at time.Time, format string, v ...any) {
	if to := r.to.Load(); to != nil {
		(*to).Emit(depth+1, level, at, format, v...)
	}
}

var (
	logs  relay
	known = make(chan struct{})
)

// Where CPUID is emulated, asking the processor what it is takes more than two milliseconds: the other packages' initialisation goes on
// meanwhile.
func init() {
	log.Log().Emitter = &logs
	go func() {
		cpuid.Initialize()
		close(known)
	}()
}

// LogTo sends the Sentry's log to an emitter. Before, and after LogTo(nil), it goes nowhere: a guest can cause messages, and the standard
// error of this process is not its to write to.
func LogTo(e log.Emitter) {
	if e == nil {
		logs.to.Store(nil)
		return
	}
	logs.to.Store(&e)
}

// CPU gives the host's processor features; it waits until they are known.
func CPU() cpuid.FeatureSet {
	<-known
	return cpuid.HostFeatureSet()
}
