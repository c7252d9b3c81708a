package programs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/cc"
)

//go:embed c
var sources embed.FS

// C builds the program of c/name.c, or of all sources in the directory c/name, and returns its path; see cc.Build.
func C(ctx context.Context, name string, flags ...string) (string, error) {
	return cc.Build(ctx, sources, name, flags...)
}

// Go builds the command of a package of this module, without cgo, and returns its path. pkg is relative to the module's
// root, such as "./cmd/qenex". The Go command has its own cache: what is up to date is not built again.
func Go(ctx context.Context, pkg string) (string, error) {
	path, err := buildGo(ctx, pkg)
	if err != nil {
		return "", fmt.Errorf("build Go program %s: %w", pkg, err)
	}
	return path, nil
}

func buildGo(ctx context.Context, pkg string) (string, error) {
	cache, err := cc.CacheDir("programs")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("not below this module's directory")
	}
	// One build at a time: two that write the same file would have a third run half of it.
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(cache, "go-"+filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir = filepath.Dir(mod)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
}
