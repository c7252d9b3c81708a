package programs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/cc"
)

//go:embed c
var sources embed.FS

// PrebuiltEnv names a variable with a directory that holds the programs of Prebuild: with it nothing is built, and what
// is not there cannot be had. It is for a machine without compilers, such as that of the svm lane.
const PrebuiltEnv = "QENEX_EXTRA"

// C builds the program of c/name.c, or of all sources in the directory c/name, and returns its path; see cc.Build. The
// error wraps cc.ErrNoCompiler if there is no compiler, and only programs without shared libraries are prebuilt.
func C(ctx context.Context, name string, flags ...string) (string, error) {
	dir := os.Getenv(PrebuiltEnv)
	if dir == "" {
		return cc.Build(ctx, sources, name, flags...)
	}
	if !slices.Equal(flags, []string{cc.Static}) {
		return "", fmt.Errorf("C program %s with %q is not among the prebuilt ones: %w", name, flags, cc.ErrNoCompiler)
	}
	path, err := prebuilt(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; where it would have been built: %w", err, cc.ErrNoCompiler)
	}
	return path, err
}

// Go builds the command of a package of this module, without cgo, and returns its path. pkg is relative to the module's
// root, such as "./cmd/qenex". The Go command has its own cache: what is up to date is not built again.
func Go(ctx context.Context, pkg string) (string, error) {
	if dir := os.Getenv(PrebuiltEnv); dir != "" {
		return prebuilt(dir, filepath.Base(pkg))
	}
	path, err := buildGo(ctx, pkg)
	if err != nil {
		return "", fmt.Errorf("build Go program %s: %w", pkg, err)
	}
	return path, nil
}

// prebuilt returns the path of a program that Prebuild put into dir.
func prebuilt(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("prebuilt program %s, %s=%s: %w", name, PrebuiltEnv, dir, err)
	}
	return path, nil
}

// Prebuild builds qenex and every program that needs nothing but a kernel, and puts them into dir under their plain
// names. An error that wraps cc.ErrNoCompiler says that the C programs alone are missing.
func Prebuild(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, pkg := range []string{"./cmd/qenex", "./internal/programs/goload"} {
		path, err := buildGo(ctx, pkg)
		if err != nil {
			return fmt.Errorf("build Go program %s: %w", pkg, err)
		}
		if err := place(path, filepath.Join(dir, filepath.Base(pkg))); err != nil {
			return err
		}
	}
	for _, name := range []string{"hello", "conform", "hard", "hostile", "escape"} {
		path, err := cc.Build(ctx, sources, name, cc.Static)
		if err != nil {
			return err
		}
		if err := place(path, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// place copies a program.
func place(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// Not into the file of a program that may be running.
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(to, text, 0o755)
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
