package serve

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// defaultPath is the PATH of commands that bring none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what a command gets: the agent's defaults, and over them what the request says.
func (s *Server) environment(m *wire.ExecMessage, a account) []string {
	env := append([]string{"PATH=" + defaultPath, "HOME=" + a.home}, s.Env...)
	if m.TTY {
		env = append(env, "TERM=xterm")
	}
	env = append(env, m.Env...)
	at := make(map[string]int)
	var once []string // the last of each name
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			once[i] = e
			continue
		}
		at[name] = len(once)
		once = append(once, e)
	}
	return once
}

// workingDirectory is where a command starts.
func workingDirectory(m *wire.ExecMessage, a account) (string, error) {
	if m.Dir == "" {
		if st, err := os.Stat(a.home); err == nil && st.IsDir() {
			return a.home, nil
		}
		return "/", nil
	}
	st, err := os.Stat(m.Dir)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is not a directory", m.Dir)
	}
	if err != nil {
		return "", fmt.Errorf("working directory: %v", err) // not to be taken for a program that is not there
	}
	return m.Dir, nil
}

// find is the path of a program: name itself if it has a slash, else the first of that name in PATH.
func find(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return in(dir, name), nil
	}
	var search string
	for _, e := range env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			search = p
		}
	}
	denied := false
	for _, d := range filepath.SplitList(search) {
		p := filepath.Join(in(dir, d), name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			if st.Mode()&0o111 != 0 {
				return p, nil
			}
			denied = true
		}
	}
	if denied {
		return "", &fs.PathError{Op: "run", Path: name, Err: fs.ErrPermission}
	}
	return "", fmt.Errorf("find %q in PATH %s: %w", name, search, fs.ErrNotExist)
}

func in(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}
