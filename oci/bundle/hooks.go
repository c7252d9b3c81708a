package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hookPatience is how long a hook without a timeout of its own may take.
const hookPatience = 5 * time.Minute

// RunHooks runs hooks one after the other, each with the container's state as its standard input, and stops at the first that fails.
func RunHooks(hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if err := runHook(h, text); err != nil {
			return err
		}
	}
	return nil
}

func runHook(h specs.Hook, state []byte) error {
	patience := hookPatience
	if h.Timeout != nil {
		patience = time.Duration(*h.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be ours
	}
	cmd.Stdin = bytes.NewReader(state)
	cmd.WaitDelay = time.Second // a child of the hook that holds its output
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("still ran after %v", patience)
	}
	if err != nil {
		return fmt.Errorf("hook %s: %w: %.400s", h.Path, err, strings.TrimSpace(string(out)))
	}
	return nil
}
