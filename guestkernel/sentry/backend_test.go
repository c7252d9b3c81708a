package sentry

import (
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/platform/systrap"
)

func init() {

	newBackend = func(spec Spec) (*backend, error) {
		p, err := systrap.New(platform.Options{ApplicationCores: 2})
		if err != nil {
			return nil, err
		}
		return &backend{Platform: p}, nil
	}
}

// confinable says whether the backend works in a confined process.
const confinable = false
