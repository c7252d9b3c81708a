// Package tree moves files and directories as tar streams, in and out of guests, and holds on to two rules: nothing is ever
// written outside the directory that was named, whatever names and links the stream has; and a stream from a guest makes no
// owners, no set-user-ID bits and no devices on the host.
//
// It knows files and tar, and neither guests nor connections. Extended attributes, sparse files and sockets are not moved.
package tree

import "errors"

// Errors of this package. ErrName is a name that leads out of the target, ErrLimit a stream that is larger than allowed,
// ErrEntry an entry that cannot be moved.
var (
	ErrName  = errors.New("name leads out of the target directory")
	ErrLimit = errors.New("tree is larger than allowed")
	ErrEntry = errors.New("tree entry")
)
