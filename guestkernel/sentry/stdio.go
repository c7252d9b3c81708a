package sentry

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// sharedFile is an open host file that the guest shares. The Sentry makes such files non-blocking and keeps a file offset of its own,
// but others have the same open file: a shell its terminal, a script the file it redirects to. So the guest starts at the
// file's offset, and giveBack sets flags and offset to what they must be.
type sharedFile struct {
	fd     int // a duplicate of our own
	flags  int
	offset bool // the file has one
	guest  *vfs.FileDescription
}

// stdio is what the guest got as files 0, 1 and 2.
type stdio struct {
	files []*sharedFile // each open file once
	tty   *host.TTYFileDescription
}

// importFiles gives the files to the guest as 0, 1 and 2 of fds. Two of them that are one open file on the host
// are one in the guest. With console, file 0 must be a terminal, and becomes all three.
func importFiles(ctx context.Context, k *kernel.Kernel, fds *kernel.FDTable, files [3]*os.File, args *kernel.CreateProcessArgs, console bool) (*stdio, error) {
	s := &stdio{}
	var same [3]*sharedFile
	for i, f := range files {
		for j := range i {
			if console || sameOpenFile(f, files[j]) {
				same[i] = same[j]
				break
			}
		}
		if same[i] == nil {
			sf, err := importFile(ctx, k, int(f.Fd()), i, args, console)
			if err != nil {
				s.giveBack(ctx)
				return nil, fmt.Errorf("passing file %d (%s) to the guest: %w", i, f.Name(), err)
			}
			s.files = append(s.files, sf)
			same[i] = sf
		}
		if _, err := fds.NewFDAt(ctx, int32(i), same[i].guest, kernel.FDFlags{}); err != nil {
			s.giveBack(ctx)
			return nil, fmt.Errorf("passing file %d to the guest: %w", i, err)
		}
	}
	if console {
		s.tty, _ = same[0].guest.Impl().(*host.TTYFileDescription)
	}
	return s, nil
}

// importFile makes host file fd, the guest's file number i, an open file of the Sentry.
func importFile(ctx context.Context, k *kernel.Kernel, fd, i int, args *kernel.CreateProcessArgs, console bool) (*sharedFile, error) {
	tty := host.IsTTY(fd)
	if console && !tty {
		return nil, fmt.Errorf("it is not a terminal: %w", unix.ENOTTY)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	mine, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	theirs, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		unix.Close(mine)
		return nil, err
	}
	sf := &sharedFile{fd: mine, flags: flags}
	sf.guest, err = host.NewFD(ctx, k.HostMount(), theirs, &host.NewFDOptions{
		Savable:      true,
		Restorable:   args.Origin != kernel.OriginExec,
		RestoreKey:   host.MakeResourceID(containerID, i),
		IsTTY:        tty,
		VirtualOwner: true,
		UID:          args.Credentials.RealKUID,
		GID:          args.Credentials.RealKGID,
	})
	if err != nil {
		unix.Close(theirs)
		unix.Close(mine)
		return nil, err
	}
	var st unix.Stat_t
	if unix.Fstat(mine, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if at, err := unix.Seek(mine, 0, unix.SEEK_CUR); err == nil {
			sf.offset = true
			if _, err := sf.guest.Seek(ctx, at, linux.SEEK_SET); err != nil {
				sf.giveBack(ctx)
				return nil, fmt.Errorf("taking over its offset: %w", err)
			}
		}
	}
	return sf, nil
}

// giveBack gives the host its file back.
func (f *sharedFile) giveBack(ctx context.Context) {
	if f.offset {
		if at, err := f.guest.Seek(ctx, 0, linux.SEEK_CUR); err == nil {
			unix.Seek(f.fd, at, unix.SEEK_SET)
		}
	}
	unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, f.flags)
	unix.Close(f.fd)
	f.guest.DecRef(ctx)
}

// giveBack gives the host all files back; the guest's programs must have ended.
func (s *stdio) giveBack(ctx context.Context) {
	for _, f := range s.files {
		f.giveBack(ctx)
	}
	s.files = nil
}

// sameOpenFile says whether a and b share offset and flags.
func sameOpenFile(a, b *os.File) bool {
	if a == b {
		return true
	}
	const kcmpFile = 0 // linux/kcmp.h
	pid := uintptr(os.Getpid())
	v, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, a.Fd(), b.Fd(), 0)
	return errno == 0 && v == 0
}
