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

// verbs are the commands of a level that are not hidden: names, and for those that have commands of their own these.
func verbs(n *kong.Node) (names []string, groups []*kong.Node) {
	for _, c := range n.Children {
		if c.Hidden || c.Type != kong.CommandNode {
			continue
		}
		names = append(names, c.Name)
		if !c.Leaf() {
			groups = append(groups, c)
		}
	}
	return names, groups
}

// words are a command and, where it is one of a group, the group before it.
func words(cmd *kong.Node) string {
	if cmd.Parent != nil && cmd.Parent.Type == kong.CommandNode {
		return cmd.Parent.Name + " " + cmd.Name
	}
	return cmd.Name
}

func bashCompletion(w io.Writer, app *kong.Application) error {
	names, groups := verbs(app.Node)
	var inner, cases strings.Builder
	for _, g := range groups {
		sub, _ := verbs(g)
		fmt.Fprintf(&inner, "    %s) sub=%q ;;\n", g.Name, strings.Join(sub, " "))
	}
	for _, cmd := range app.Leaves(true) {
		var flags []string
		for _, f := range cmd.Flags {
			flags = append(flags, "--"+f.Name)
			if v := values(f); v != nil {
				fmt.Fprintf(&cases, "    %q:--%s) words=%q ;;\n", words(cmd), f.Name, strings.Join(v, " "))
			}
		}
		for _, a := range cmd.Positional {
			flags = append(flags, strings.Split(a.Enum, ",")...)
		}
		fmt.Fprintf(&cases, "    %q:*) words=%q ;;\n", words(cmd), strings.Join(append(flags, "--help"), " "))
	}
	_, err := fmt.Fprintf(w, `_qenex() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]} sub= words
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W %q -- "$cur"))
    return
  fi
  case $cmd in
%s  esac
  if [ -n "$sub" ]; then
    if [ "$COMP_CWORD" -eq 2 ]; then
      COMPREPLY=($(compgen -W "$sub" -- "$cur"))
      return
    fi
    cmd="$cmd ${COMP_WORDS[2]}"
  fi
  case $cmd:$prev in
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _qenex qenex
`, strings.Join(names, " "), inner.String(), cases.String())
	return err
}

func fishCompletion(w io.Writer, app *kong.Application) error {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }
	var b strings.Builder
	_, groups := verbs(app.Node)
	for _, g := range groups {
		fmt.Fprintf(&b, "complete -c qenex -n __fish_use_subcommand -a %s -d %s\n", g.Name, quote(g.Help))
	}
	for _, cmd := range app.Leaves(true) {
		place, seen := "__fish_use_subcommand", "__fish_seen_subcommand_from "+cmd.Name
		if group, _, nested := strings.Cut(words(cmd), " "); nested {
			sub, _ := verbs(cmd.Parent)
			place = quote("__fish_seen_subcommand_from " + group + "; and not __fish_seen_subcommand_from " + strings.Join(sub, " "))
			seen = "__fish_seen_subcommand_from " + group + "; and " + seen
		}
		fmt.Fprintf(&b, "complete -c qenex -n %s -a %s -d %s\n", place, cmd.Name, quote(cmd.Help))
		for _, f := range cmd.Flags {
			fmt.Fprintf(&b, "complete -c qenex -n %s -l %s -d %s", quote(seen), f.Name, quote(f.Help))
			if v := values(f); v != nil {
				b.WriteString(" -xa " + quote(strings.Join(v, " ")))
			} else if !f.IsBool() {
				b.WriteString(" -r")
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
