package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is who a program runs as.
type Identity struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Home     string   // from /etc/passwd; "" if the user is not listed
}

// maxAccounts bounds the bytes read of /etc/passwd and /etc/group.
const maxAccounts = 1 << 20

// Lookup resolves a user as images and docker run name it: "", "name", "uid", "name:group", "uid:gid" and mixtures. Names come from
// the root's own /etc/passwd and /etc/group. A number need not be listed. "" is root.
func Lookup(root, user string) (Identity, error) {
	passwd, err := readAccounts(root, "etc/passwd")
	if err != nil {
		return Identity{}, err
	}
	group, err := readAccounts(root, "etc/group")
	if err != nil {
		return Identity{}, err
	}
	id, err := identify(passwd, group, user)
	if err != nil {
		return Identity{}, fmt.Errorf("user %q: %w", user, err)
	}
	return id, nil
}

// readAccounts reads a file of the root, "" if there is none.
func readAccounts(root, name string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := resolveIn(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading /%s of %s: %w", name, root, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, invalid("/%s is no regular file", name))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err == nil && len(b) > maxAccounts {
		err = invalid("/%s has more than %d bytes", name, maxAccounts)
	}
	return string(b), err
}

// accounts calls f with the fields of each line that has at least n, until it returns false.
func accounts(text string, n int, f func(fields []string) bool) {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxAccounts+1)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) >= n && !strings.HasPrefix(fields[0], "#") && !f(fields) {
			return
		}
	}
}

// number reads a user or group ID; the highest means "none" to the kernel.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}

func identify(passwd, group, user string) (Identity, error) {
	name, groupName, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	var id Identity
	uid, numeric := number(name)
	id.UID = uid
	listed := "" // the user's name, which /etc/group knows
	accounts(passwd, 4, func(f []string) bool {
		u, ok := number(f[2])
		g, gok := number(f[3])
		if !ok || !gok || f[0] != name && !(numeric && u == uid) {
			return true
		}
		listed, id.UID, id.GID = f[0], u, g
		if len(f) > 5 {
			id.Home = f[5]
		}
		return false
	})
	if listed == "" && !numeric {
		return id, errors.New("there is no such user in the image's /etc/passwd")
	}
	if hasGroup {
		g, err := groupID(group, groupName)
		id.GID = g
		return id, err
	}
	accounts(group, 4, func(f []string) bool {
		g, ok := number(f[2])
		if ok && listed != "" && g != id.GID && slices.Contains(strings.Split(f[3], ","), listed) && !slices.Contains(id.Groups, g) {
			id.Groups = append(id.Groups, g)
		}
		return len(id.Groups) < 1<<16 // NGROUPS_MAX
	})
	return id, nil
}

func groupID(group, name string) (uint32, error) {
	gid, numeric := number(name)
	found := numeric
	accounts(group, 3, func(f []string) bool {
		g, ok := number(f[2])
		if ok && f[0] == name {
			gid, found = g, true
			return false
		}
		return true
	})
	if !found {
		return 0, errors.New("there is no such group in the image's /etc/group")
	}
	return gid, nil
}
