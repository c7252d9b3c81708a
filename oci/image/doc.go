// Package image turns a container image into a directory that a native guest can have as its root.
//
// It opens a root directory, a tar of one, an OCI image layout (directory or tar) and a docker archive, says which it is, and unpacks
// what needs unpacking into a cache that is addressed by content and verified by digest. Images come from strangers: every name, link,
// size and digest in them is checked, and nothing is ever written outside the directory being made.
//
// Guests, virtual machines and the command line do not enter.
package image

import (
	"errors"
	"fmt"
)

// ErrInvalid is wrapped by every error that says an image is broken, of no known kind, or not for this machine.
var ErrInvalid = errors.New("not a usable image")

// Kind is a form in which an image comes.
type Kind string

// The kinds of image.
const (
	KindDirectory     Kind = "directory"      // a root directory, used where it is
	KindTar           Kind = "rootfs tar"     // a tar of a root directory, plain or compressed with gzip or zstd
	KindLayout        Kind = "OCI layout"     // an OCI image layout, a directory or a tar of it
	KindDockerArchive Kind = "docker archive" // what docker save writes
)

// Config is what an image says of the program to run. All fields may be empty.
type Config struct {
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Env        []string `json:"env,omitempty"` // NAME=value
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"` // for Lookup
	StopSignal string   `json:"stop_signal,omitempty"`
}

// Image is an image that is ready to run.
type Image struct {
	Kind    Kind     `json:"kind"`
	Root    string   `json:"-"`                 // absolute path of the root directory on the host
	Digest  string   `json:"digest,omitempty"`  // of the image's configuration, or of the tar file; "" for a directory
	Shared  bool     `json:"-"`                 // Root is in the cache and used by others: it must not be written to
	Config  Config   `json:"config"`            // zero for directories and rootfs tars
	Skipped []string `json:"skipped,omitempty"` // what could not be made for lack of privilege, such as device nodes; at most 16 are named
}

// Limits bound what one image may make of the host. A zero field means its default.
type Limits struct {
	Bytes   int64 // of all files after decompression; default 64 GiB
	Entries int   // of all layers; default 2^22
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries == 0 {
		l.Entries = 1 << 22
	}
	return l
}

const (
	maxJSON   = 4 << 20 // bytes of an index, a manifest or a configuration, as registries have it
	maxLayers = 512
	maxName   = 4096 // bytes of a path in an archive
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
