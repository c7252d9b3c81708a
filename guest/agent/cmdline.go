package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// commandLine is what the kernel command line says to the agent.
type commandLine struct {
	root      string
	rootType  string
	overlay   string
	shares    []share
	hold      bool
	ip        string
	agentPort uint32 // 0 is off
	noXSave   bool
	words     []string // all, for the parameters of modules
}

// share is a directory of the host and where it goes.
type share struct {
	tag, path string
	readOnly  bool
}

// readCommandLine reads the running kernel's. Where /proc is missing, everything is as by default.
func readCommandLine() commandLine {
	b, err := os.ReadFile("/proc/cmdline")
	report("kernel command line", err)
	return parseCommandLine(string(b))
}

// parseCommandLine finds the agent's words in a kernel command line; the last of a name wins.
func parseCommandLine(line string) commandLine {
	c := commandLine{rootType: "ext4", ip: "dhcp", agentPort: wire.Port, words: split(line)}
	for _, w := range c.words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "qenex.root":
			c.root = value
		case "qenex.rootfs":
			c.rootType = value
		case "qenex.overlay":
			c.overlay = value
		case "qenex.share":
			value, readOnly := strings.CutSuffix(value, ":ro")
			tag, path, _ := strings.Cut(value, ":")
			c.shares = append(c.shares, share{tag, path, readOnly})
		case "qenex.hold":
			c.hold = value != "0"
		case "qenex.ip":
			c.ip = value
		case "qenex.agent":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				n = 0
			}
			c.agentPort = uint32(n)
		case "noxsave":
			c.noXSave = true
		}
	}
	return c
}

// split cuts a kernel command line into words at white space outside double quotes and drops the quotes, as the kernel does.
func split(line string) (words []string) {
	var w strings.Builder
	quoted, inside := false, false
	for _, c := range []byte(line) {
		switch {
		case c == '"':
			quoted, inside = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if inside {
				words = append(words, w.String())
				w.Reset()
				inside = false
			}
		default:
			w.WriteByte(c)
			inside = true
		}
	}
	if inside {
		words = append(words, w.String())
	}
	return words
}

// parameters are those of a module, which the kernel leaves to whoever loads it: words NAME.parameter=value.
func (c commandLine) parameters(module string) string {
	var list []string
	for _, w := range c.words {
		name, parameter, ok := strings.Cut(w, ".")
		if ok && strings.ReplaceAll(name, "-", "_") == module {
			list = append(list, parameter)
		}
	}
	return strings.Join(list, " ")
}
