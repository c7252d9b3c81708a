package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

// Run prints the manual page in man(7) format, made from the command line's own model.
func (c *manCmd) Run(k *kong.Kong) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH QENEX 1 \"\" \"qenex %s\" \"QENEX manual\"\n", roff(version))
	b.WriteString(".SH NAME\nqenex \\- a KVM-based microkernel hypervisor\n")
	b.WriteString(".SH SYNOPSIS\n.B qenex\n.I command\n[\\fIflags\\fR]\n.SH COMMANDS\n")
	for _, cmd := range k.Model.Leaves(true) {
		fmt.Fprintf(&b, ".SS %s\n%s\n", roff(cmd.Summary()), roff(cmd.Help))
		for _, f := range cmd.Flags {
			if f.Name == "help" {
				continue
			}
			name := "--" + f.Name
			if !f.IsBool() {
				name += "=" + f.FormatPlaceHolder()
			}
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(name), roff(f.Help))
		}
		if cmd.Detail != "" {
			for _, part := range strings.Split(cmd.Detail, "\n\n") {
				fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", roff(part))
			}
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(e.code), roff(e.what))
	}
	b.WriteString(".SH FILES\n.TP\n.I /dev/kvm\nThe KVM device.\n.TP\n.I ~/.cache/qenex\nGuest kernels and initial RAM disks made by make guest; in images, container images unpacked by qenex run \\-\\-rootfs; in disks, those made for qenex run \\-\\-image.\n" +
		".TP\n.I /run/qenex\nMachines that run and the state of containers, one directory each; for users other than root $XDG_RUNTIME_DIR/qenex. A machine's\n" +
		"control.sock takes HTTP requests: GET /v1/openapi.json describes them.\n" +
		".SH ENVIRONMENT\n.TP\n.I QENEX_RUN\nThe directory of machines, instead of /run/qenex.\n.TP\n.I QENEX_CACHE\nThe directory of what is kept between runs, instead of ~/.cache/qenex.\n" +
		".TP\n.I QENEX_STATE\nThe directory of the audit log, its key and the TPM's state, instead of /var/lib/qenex, for users other than root ~/.local/state/qenex.\n" +
		".TP\n.I QENEX_MEASURE, QENEX_AUDIT\nWhat --measure and --audit are if they are not given.\n")
	_, err := io.WriteString(k.Stdout, b.String())
	return err
}

// roff escapes text for man(7).
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
