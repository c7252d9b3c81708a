package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is whom a command runs as.
type account struct {
	name       string // "" if passwd does not know the number
	home       string
	credential *syscall.Credential // nil: the agent's own
}

// lookup finds USER[:GROUP], names or numbers, in passwd and group; "" is the agent's own user.
func (s *Server) lookup(spec string) (account, error) {
	user, group, withGroup := strings.Cut(spec, ":")
	wanted := user
	if spec == "" {
		wanted = strconv.Itoa(os.Getuid())
	}
	a := account{home: "/", credential: &syscall.Credential{}}
	found, err := s.passwd(wanted, &a)
	if err != nil {
		return a, err
	}
	if spec == "" {
		a.credential = nil
		return a, nil
	}
	if !found {
		if a.credential.Uid, err = number(user); err != nil {
			return a, fmt.Errorf("user %q: %s knows no such name", user, filepath.Join(s.Etc, "passwd"))
		}
	}
	return a, s.groups(&a, group, withGroup)
}

// passwd fills in the account of the name or number.
func (s *Server) passwd(wanted string, a *account) (found bool, err error) {
	err = s.lines("passwd", 7, func(f []string) error {
		if found || f[0] != wanted && f[2] != wanted {
			return nil
		}
		found = true
		a.name, a.home = f[0], f[5]
		var err1, err2 error
		a.credential.Uid, err1 = number(f[2])
		a.credential.Gid, err2 = number(f[3])
		return errors.Join(err1, err2)
	})
	return found, err
}

// groups gives the account its groups: the one that is asked for, or those of passwd and group.
func (s *Server) groups(a *account, wanted string, only bool) error {
	found := false
	err := s.lines("group", 4, func(f []string) error {
		gid, err := number(f[2])
		switch {
		case err != nil:
			return err
		case only && (f[0] == wanted || f[2] == wanted):
			a.credential.Gid, found = gid, true
		case !only && a.name != "" && slices.Contains(strings.Split(f[3], ","), a.name):
			a.credential.Groups = append(a.credential.Groups, gid)
		}
		return nil
	})
	if err != nil || !only || found {
		return err
	}
	if a.credential.Gid, err = number(wanted); err != nil {
		return fmt.Errorf("group %q: %s knows no such name", wanted, filepath.Join(s.Etc, "group"))
	}
	return nil
}

// lines calls f for each line of a file in Etc that has the given number of fields. No file is no lines.
func (s *Server) lines(name string, fields int, f func([]string) error) error {
	name = filepath.Join(s.Etc, name)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if cut := strings.Split(strings.TrimSpace(line), ":"); len(cut) == fields {
			if err := f(cut); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}
