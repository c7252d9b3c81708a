package tapnet

import "golang.org/x/sys/unix"

// query does an ioctl on an interface.
func query(name string, request uint, set func(*unix.Ifreq)) (*unix.Ifreq, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	set(req)
	return req, unix.IoctlIfreq(fd, request, req)
}

// flags are the IFF_* of an interface.
func flags(name string) (uint16, error) {
	req, err := query(name, unix.SIOCGIFFLAGS, func(*unix.Ifreq) {})
	if err != nil {
		return 0, err
	}
	return req.Uint16(), nil
}

// up brings an interface up.
func up(name string) error {
	f, err := flags(name)
	if err != nil {
		return err
	}
	_, err = query(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(f | unix.IFF_UP) })
	return err
}

// mtu reads an interface's MTU in bytes.
func mtu(name string) (int, error) {
	req, err := query(name, unix.SIOCGIFMTU, func(*unix.Ifreq) {})
	if err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}
