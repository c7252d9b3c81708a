package main

import (
	"strings"
	"testing"
)

var lines = []struct {
	line, command, action string
}{
	{"", "uname -a", "poweroff"},
	{"console=ttyS0 quiet\n", "uname -a", "poweroff"},
	{"qenex.cmd=nproc quiet", "nproc", "poweroff"},
	{`quiet qenex.cmd="uname -a; nproc" qenex.action=reboot`, "uname -a; nproc", "reboot"},
	{`"qenex.cmd=ls /" qenex.action=shell` + "\n", "ls /", "shell"},
	{`qenex.cmd="x=1; echo $x" panic=-1`, "x=1; echo $x", "poweroff"},
	{`qenex.cmd="never closed`, "never closed", "poweroff"},
	{`notqenex.cmd=no qenex.cmd=`, "", "poweroff"},
	{`qenex.cmd=first qenex.cmd=second`, "second", "poweroff"},
}

func TestParse(t *testing.T) {
	for _, c := range lines {
		if j := parse(c.line); j.command != c.command || j.action != c.action {
			t.Errorf("parse(%q) = %+v, want %q then %q", c.line, j, c.command, c.action)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, c := range lines {
		f.Add(c.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, p := range split(line) {
			if strings.Contains(p, `"`) {
				t.Errorf("split(%q): quote left in %q", line, p)
			}
		}
	})
}
