package serve

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// stdio are our ends of a command's standard files. On a terminal all are the same file.
type stdio struct {
	in  *os.File // nil: no input
	out *os.File
	err *os.File // nil: a terminal
	tty bool
}

// open makes the standard files of a command and returns the command's ends, which the caller closes.
func (s *stdio) open(m *wire.ExecMessage, who account) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			s.close()
			closeAll(files)
			files = nil
		}
	}()
	if m.TTY {
		return s.openTerminal(m.Size, who)
	}
	var in *os.File
	if m.Stdin {
		in, s.in, err = os.Pipe()
	} else {
		in, err = os.Open(os.DevNull)
	}
	if err != nil {
		return nil, err
	}
	files = append(files, in)
	for _, ours := range []**os.File{&s.out, &s.err} {
		r, w, err := os.Pipe()
		if err != nil {
			return files, err
		}
		*ours = r
		files = append(files, w)
	}
	return files, nil
}

// openTerminal makes a pseudo-terminal, which belongs to the command's user.
func (s *stdio) openTerminal(size wire.Size, who account) ([]*os.File, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	s.tty, s.out = true, os.NewFile(uintptr(fd), "/dev/ptmx")
	s.in = s.out
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, os.NewSyscallError("TIOCGPTN", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, os.NewSyscallError("TIOCSPTLCK", err)
	}
	if err := s.resize(size); err != nil {
		return nil, err
	}
	name := "/dev/pts/" + strconv.Itoa(number)
	if who.credential != nil {
		if err := os.Chown(name, int(who.credential.Uid), -1); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return []*os.File{f, f, f}, nil
}

// resize sets the terminal's size; the zero size, and a command without a terminal, are left alone.
func (s *stdio) resize(size wire.Size) error {
	if !s.tty || size == (wire.Size{}) {
		return nil
	}
	raw, err := s.out.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
	if err == nil {
		err = os.NewSyscallError("TIOCSWINSZ", failed)
	}
	return err
}

// endInput lets the command see the end of its input: of a terminal's, as a person would, by control-D.
func (s *stdio) endInput() error {
	if s.tty {
		_, err := s.in.Write([]byte{4})
		return err
	}
	return s.in.Close()
}

// interrupt ends reads that wait, and input that nobody takes.
func (s *stdio) interrupt() {
	if s.in != nil && !s.tty {
		s.in.Close()
	}
	s.out.SetDeadline(time.Now())
	if s.err != nil {
		s.err.SetDeadline(time.Now())
	}
}

// close closes our ends. Closing one twice does no harm.
func (s *stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

// closeAll closes the command's ends; a terminal's is there three times.
func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// readNow reads what is there; nothing, an end and an error are 0.
func readNow(f *os.File, b []byte) (n int) {
	f.SetReadDeadline(time.Time{})
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	})
	if err != nil {
		return 0
	}
	return n
}
