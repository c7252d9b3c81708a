package boot

import "errors"

// The ways a boot can fail. Each error returned by this package wraps exactly one of them and
// says what was wrong, where, and what to do.
var (
	ErrNotKernel = errors.New("not a kernel")                       // no format known here
	ErrTruncated = errors.New("kernel file is truncated")           // ends before what its headers promise
	ErrHeader    = errors.New("bad kernel header")                  // contradicts itself or the format
	ErrPayload   = errors.New("cannot unpack kernel")               // compressed data broken, unknown or too large
	ErrMode      = errors.New("kernel does not support this entry") // asked for a protocol it lacks
	ErrMemory    = errors.New("guest memory too small")             // kernel or initrd does not fit
	ErrCmdline   = errors.New("bad kernel command line")            // too long, or holds a NUL
	ErrInitrd    = errors.New("cannot load initrd")                 // unreadable or of impossible size
	ErrRead      = errors.New("cannot read kernel file")            // the reader failed
)
