package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the text behind the flags.
func (c *completionCmd) Help() string {
	return "Example: qenex completion bash > /etc/bash_completion.d/qenex"
}

// Run prints the script, made from the command line's own model.
func (c *completionCmd) Run(k *kong.Kong) error {
	switch c.Shell {
	case "bash":
		return bashCompletion(k.Stdout, k.Model)
	case "zsh":
		// zsh runs bash completions through its own compatibility layer.
		fmt.Fprintln(k.Stdout, "#compdef qenex\nautoload -U +X bashcompinit && bashcompinit")
		return bashCompletion(k.Stdout, k.Model)
	default:
		return fishCompletion(k.Stdout, k.Model)
	}
}

// values returns what a flag may be set to, or nil when that is a file or free text.
func values(f *kong.Flag) []string {
	if f.Enum == "" {
		return nil
	}
	return strings.Split(f.Enum, ",")
}

func bashCompletion(w io.Writer, app *kong.Application) error {
	var names []string
	var cases strings.Builder
	for _, cmd := range app.Leaves(true) {
		names = append(names, cmd.Name)
		var flags []string
		for _, f := range cmd.Flags {
			flags = append(flags, "--"+f.Name)
			if v := values(f); v != nil {
				fmt.Fprintf(&cases, "    %s:--%s) words=%q ;;\n", cmd.Name, f.Name, strings.Join(v, " "))
			}
		}
		for _, a := range cmd.Positional {
			flags = append(flags, strings.Split(a.Enum, ",")...)
		}
		fmt.Fprintf(&cases, "    %s:*) words=%q ;;\n", cmd.Name, strings.Join(append(flags, "--help"), " "))
	}
	_, err := fmt.Fprintf(w, `_qenex() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W %q -- "$cur"))
    return
  fi
  case ${COMP_WORDS[1]}:$prev in
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _qenex qenex
`, strings.Join(names, " "), cases.String())
	return err
}

func fishCompletion(w io.Writer, app *kong.Application) error {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }
	for _, cmd := range app.Leaves(true) {
		if _, err := fmt.Fprintf(w, "complete -c qenex -n __fish_use_subcommand -a %s -d %s\n", cmd.Name, quote(cmd.Help)); err != nil {
			return err
		}
		for _, f := range cmd.Flags {
			line := fmt.Sprintf("complete -c qenex -n '__fish_seen_subcommand_from %s' -l %s -d %s", cmd.Name, f.Name, quote(f.Help))
			if v := values(f); v != nil {
				line += " -xa " + quote(strings.Join(v, " "))
			} else if !f.IsBool() {
				line += " -r"
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}
