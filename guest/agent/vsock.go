package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent/wire"
	"github.com/qenex/qenex-kernel/guest/agent/serve"
)

// backlog is how many connections may wait to be accepted.
const backlog = 64

// listen answers the host's connections to a vsock port. It returns only with an error.
func listen(port uint32, server *serve.Server, s *system) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "vsock")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return os.NewSyscallError("listen", err)
	}
	go protected("ready", func() error { sayReady(s); return nil })
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		conn, err := accept(raw)
		if err != nil {
			return err
		}
		if conn != nil {
			go server.Handle(conn)
		}
	}
}

// accept waits for a connection. One that is not the host's is closed, and nil.
func accept(raw syscall.RawConn) (*os.File, error) {
	var fd int
	var from unix.Sockaddr
	var failed error
	err := raw.Read(func(l uintptr) bool {
		fd, from, failed = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return failed != unix.EAGAIN
	})
	switch {
	case err != nil:
		return nil, err
	case failed == unix.ECONNABORTED, failed == unix.EINTR, failed == unix.EMFILE, failed == unix.ENFILE, failed == unix.ENOMEM:
		return nil, nil
	case failed != nil:
		return nil, os.NewSyscallError("accept", failed)
	}
	if vm, ok := from.(*unix.SockaddrVM); !ok || vm.CID != unix.VMADDR_CID_HOST {
		unix.Close(fd)
		return nil, nil
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

// sayReady tells the host, if it listens, that requests are taken.
func sayReady(s *system) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "vsock")
	defer f.Close()
	if unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: wire.Port}) == nil {
		m := s.Info()
		wire.NewConn(f).Request(wire.Ready, &m)
	}
}
