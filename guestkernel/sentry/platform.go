package sentry

import (
	"errors"

	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// backend is what runs guest code, with what the Sentry's own interface does not tell of it.
type backend struct {
	platform.Platform
	stats func(*Stats) // fills in the fields it knows; may be nil
	close func()       // may be nil
}

// newBackend is what New makes its backend with. Tests replace it.
var newBackend = func(Spec) (*backend, error) {
	return nil, errors.New("native guests: no platform is built in")
}
