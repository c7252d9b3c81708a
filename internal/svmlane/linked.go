package svmlane

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Linked adds a program and the libraries it is linked with to files, as in Spec.Files, each under its own path.
func Linked(ctx context.Context, files map[string]string, program string) error {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", program, err)
	}
	files[program] = program
	for line := range strings.Lines(string(out)) {
		// "libx.so => /path (address)" or "/lib64/ld-linux-x86-64.so.2 (address)"
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				files[field] = field
			}
		}
	}
	return nil
}
