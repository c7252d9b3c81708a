package main

import "strings"

// job is what a kernel command line asks the guest to do.
type job struct {
	command string // for the shell
	action  string // what follows
}

// parse finds the job in a kernel command line. Quotes may stand around a value or around the whole parameter, as in the
// kernel's own parser; the last of several wins.
func parse(line string) job {
	j := job{command: "uname -a", action: "poweroff"}
	for _, p := range split(line) {
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "qenex.cmd":
			j.command = value
		case "qenex.action":
			j.action = value
		}
	}
	return j
}

// split cuts a kernel command line into parameters at white space outside double quotes and drops the quotes.
func split(line string) []string {
	var params []string
	var p strings.Builder
	quoted, inside := false, false
	for _, c := range []byte(line) {
		switch {
		case c == '"':
			quoted, inside = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if inside {
				params = append(params, p.String())
				p.Reset()
				inside = false
			}
		default:
			p.WriteByte(c)
			inside = true
		}
	}
	if inside {
		params = append(params, p.String())
	}
	return params
}
