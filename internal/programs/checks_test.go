package programs

import (
	"bufio"
	"fmt"
	"strings"
)

// checks reads the output of a checking program: lines of "name: what happened".
func checks(output string) (names []string, lines map[string]string, err error) {
	lines = make(map[string]string)
	s := bufio.NewScanner(strings.NewReader(output))
	for s.Scan() {
		name, what, ok := strings.Cut(s.Text(), ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return names, lines, fmt.Errorf("%q is no line of a checking program", s.Text())
		}
		if _, twice := lines[name]; twice {
			return names, lines, fmt.Errorf("two lines of %q", name)
		}
		names = append(names, name)
		lines[name] = strings.TrimSpace(what)
	}
	return names, lines, s.Err()
}

// differences reads a list of known differences: lines of a name and a reason; # begins a comment.
func differences(list string) (map[string]string, error) {
	known := make(map[string]string)
	for l := range strings.Lines(list) {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		name, reason, _ := strings.Cut(l, " ")
		reason = strings.TrimSpace(reason)
		if reason == "" {
			return nil, fmt.Errorf("known difference %q has no reason", name)
		}
		if known[name] != "" {
			return nil, fmt.Errorf("known difference %q is listed twice", name)
		}
		known[name] = reason
	}
	return known, nil
}
