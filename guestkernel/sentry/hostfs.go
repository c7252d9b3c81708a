package sentry

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/fsgofer"
)

// caching says how far the Sentry may trust what it remembers of a host directory.
type caching string

const (
	cacheAll     caching = ""                          // nobody else changes it, or only the lower side of an overlay
	cacheChecked caching = "cache=remote_revalidating" // the host may change it at any time
)

// fileServer hands host directories to the Sentry. The Sentry opens files below them itself, name by name and
// never through a symbolic link; the server, which runs in this process, answers for the mount points only.
type fileServer struct {
	lisafs *lisafs.Server
	config fsgofer.Config
}

// dentryCache is how many host files the Sentry keeps open for no other reason than that they may be asked for again: a quarter of
// what the process may open, within bounds.
var dentryCache = sync.OnceValue(func() error {
	limits, err := hostLimits()
	if err != nil {
		return err
	}
	gofer.SetDentryCacheSize(int(min(max(limits[0].Cur/4, 256), 8192)))
	return nil
})

// newFileServer makes a server without a directory.
func newFileServer() (*fileServer, error) {
	if err := dentryCache(); err != nil {
		return nil, err
	}
	if err := fsgofer.OpenProcSelfFD("/proc/self/fd"); err != nil {
		return nil, err
	}
	return &fileServer{
		lisafs: lisafs.NewServer(),
		config: fsgofer.Config{
			HostUDS:            config.HostUDSNone,
			HostFifo:           config.HostFifoNone,
			DonateMountPointFD: true,
			RUID:               unix.Getuid(),
			EUID:               unix.Geteuid(),
			RGID:               unix.Getgid(),
			EGID:               unix.Getegid(),
		},
	}, nil
}

// connect starts serving host path and gives the client's end of the connection.
func (f *fileServer) connect(path string, readonly bool) (int, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return -1, fmt.Errorf("finding host path %s: %w", path, err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("making the file server's socket: %w", err)
	}
	sock, err := unet.NewSocket(fds[0])
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return -1, fmt.Errorf("setting up the file server's socket: %w", err)
	}
	conn, err := f.lisafs.CreateConnection(sock, real, fsgofer.ConnectionOpts(readonly), fsgofer.NewConnectionImpl(&f.config))
	if err != nil {
		sock.Close()
		unix.Close(fds[1])
		return -1, fmt.Errorf("serving host path %s: %w", real, err)
	}
	f.lisafs.StartConnection(conn)
	return fds[1], nil
}

// options are the mount options of host path, seen at target.
func (f *fileServer) options(path, target string, readonly bool, c caching) (*vfs.MountOptions, error) {
	fd, err := f.connect(path, readonly)
	if err != nil {
		return nil, err
	}
	n := strconv.Itoa(fd)
	data := []string{"trans=fd", "rfdno=" + n, "wfdno=" + n, "directfs", "disable_fifo_open"}
	if c != cacheAll {
		data = append(data, string(c))
	}
	return &vfs.MountOptions{
		ReadOnly: readonly,
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			Data:          strings.Join(data, ","),
			InternalData:  gofer.InternalFilesystemOptions{UniqueID: checkpoint.ResourceID{ContainerName: containerID, Path: target}},
		},
	}, nil
}
