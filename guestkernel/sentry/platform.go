package sentry

import (
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/qenex/qenex-kernel/guestkernel"
	qplatform "github.com/qenex/qenex-kernel/guestkernel/sentry/platform"
	"github.com/qenex/qenex-kernel/internal/seccomp"
)

// backend is what runs guest code, with what the Sentry's own interface does not tell of it.
type backend struct {
	platform.Platform
	stats func(*Stats) // fills in the fields it knows; may be nil
	close func()       // may be nil

	ioctlList []uint32 // requests it makes on its devices
	callList  []int    // further system calls it makes
}

// newBackend is what New makes its backend with. Tests replace it.
var newBackend = func(spec *Spec) (*backend, error) {
	p, err := qplatform.New(guestkernel.Options{})
	if err != nil {
		return nil, err
	}
	return &backend{Platform: p, ioctlList: p.Ioctls(), callList: p.Calls()}, nil
}

// release frees what the backend holds; b may be nil.
func (b *backend) release() {
	if b != nil && b.close != nil {
		b.close()
	}
}

// ioctls are the requests that the backend makes.
func (b *backend) ioctls() [][]seccomp.Arg {
	if len(b.ioctlList) == 0 {
		return nil
	}
	return [][]seccomp.Arg{{{N: 1, Values: b.ioctlList}}}
}

// rules are the system calls, beside those of any sandbox, that the backend makes.
func (b *backend) rules() []seccomp.Rule {
	known := map[int]bool{unix.SYS_IOCTL: true, unix.SYS_TGKILL: true, unix.SYS_MMAP: true}
	for _, nr := range plainCalls {
		known[nr] = true
	}
	var more []int
	for _, nr := range b.callList {
		if !known[nr] {
			known[nr] = true
			more = append(more, nr)
		}
	}
	return seccomp.Allow(more...)
}
