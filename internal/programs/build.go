package programs

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

//go:embed c
var sources embed.FS

// ErrNoCompiler says that this host has no gcc.
var ErrNoCompiler = errors.New("no gcc here; install gcc and libc6-dev")

// Static is the compiler flag for a program that needs no shared library.
const Static = "-static"

// CacheDir returns the directory that built programs are kept in: programs below QENEX_CACHE, or below qenex in the
// user's cache.
func CacheDir() (string, error) {
	cache := os.Getenv("QENEX_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache directory to build programs in: %w", err)
		}
		cache = filepath.Join(user, "qenex")
	}
	dir := filepath.Join(cache, "programs")
	return dir, os.MkdirAll(dir, 0o755)
}

// C builds the program of c/name.c, or of all sources in the directory c/name, and returns its path. flags are added to
// the compiler's. A program is built once for each content of c, set of flags and compiler.
func C(ctx context.Context, name string, flags ...string) (string, error) {
	path, err := buildC(ctx, name, flags)
	if err != nil {
		return "", fmt.Errorf("build C program %s: %w", name, err)
	}
	return path, nil
}

func buildC(ctx context.Context, name string, flags []string) (string, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", ErrNoCompiler
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	version, err := gccVersion(gcc)
	if err != nil {
		return "", err
	}
	flags = append([]string{"-O1", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
		"-Wno-stringop-overflow", "-Wno-stringop-overread", "-Wno-nonnull", "-Wno-array-bounds", "-Wno-clobbered", "-pthread", "-mno-avx", "-fno-toplevel-reorder"}, flags...)
	key, err := sourceKey(version + "\x00" + strings.Join(flags, "\x00"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, name+"-"+key)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.CopyFS(tmp, sources); err != nil {
		return "", err
	}
	files := []string{filepath.Join("c", name+".c")}
	if s, err := os.Stat(filepath.Join(tmp, "c", name)); err == nil && s.IsDir() {
		if files, err = filepath.Glob(filepath.Join(tmp, "c", name, "*.c")); err != nil {
			return "", err
		}
	}
	args := append([]string{"-Ic", "-o", "program"}, files...)
	cmd := exec.CommandContext(ctx, gcc, append(args, flags...)...)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, os.Rename(filepath.Join(tmp, "program"), path)
}

var gccVersion = func() func(string) (string, error) {
	var once sync.Once
	var version []byte
	var err error
	return func(gcc string) (string, error) {
		once.Do(func() { version, err = exec.Command(gcc, "--version").Output() })
		return string(version), err
	}
}()

// sourceKey is a name for all of c and for salt.
func sourceKey(salt string) (string, error) {
	h := sha256.New()
	h.Write([]byte(salt))
	err := fs.WalkDir(sources, "c", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintf(h, "%s\x00%d\x00%s", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
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
	cache, err := CacheDir()
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
