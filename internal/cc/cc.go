// Package cc builds small C programs from source with the host's gcc, for tests and benchmarks. What was built is kept in
// the user's cache. No binary is part of the repository, and nothing of QENEX may enter here.
package cc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// ErrNoCompiler says that this host has no gcc.
var ErrNoCompiler = errors.New("no gcc here; install gcc and libc6-dev")

// Static is the compiler flag for a program that needs no shared library.
const Static = "-static"

// CacheDir returns the directory name below QENEX_CACHE, or below qenex in the user's cache, and makes it.
func CacheDir(name string) (string, error) {
	cache := os.Getenv("QENEX_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache directory to build programs in: %w", err)
		}
		cache = filepath.Join(user, "qenex")
	}
	dir := filepath.Join(cache, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// Build builds the program of c/name.c in sources, or of all of the directory c/name, and returns its path. flags are
// added to the compiler's. A program is built once for each content of sources, set of flags and compiler.
func Build(ctx context.Context, sources fs.FS, name string, flags ...string) (string, error) {
	path, err := build(ctx, sources, name, flags)
	if err != nil {
		return "", fmt.Errorf("build C program %s: %w", name, err)
	}
	return path, nil
}

func build(ctx context.Context, sources fs.FS, name string, flags []string) (string, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", ErrNoCompiler
	}
	cache, err := CacheDir("programs")
	if err != nil {
		return "", err
	}
	version, err := gccVersion(gcc)
	if err != nil {
		return "", err
	}
	flags = append([]string{
		"-O1", "-g0", "-std=gnu11", "-pthread", "-mno-avx", "-fno-toplevel-reorder", "-Wall", "-Wextra", "-Werror",
		// The programs mean what these warn of.
		"-Wno-stringop-overflow", "-Wno-stringop-overread", "-Wno-nonnull", "-Wno-array-bounds", "-Wno-clobbered",
	}, flags...)
	key, err := sourceKey(sources, version+"\x00"+strings.Join(flags, "\x00"))
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

// sourceKey is a name for all of sources and for salt.
func sourceKey(sources fs.FS, salt string) (string, error) {
	h := sha256.New()
	h.Write([]byte(salt))
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(sources, path)
		fmt.Fprintf(h, "%s\x00%d\x00%s", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}
