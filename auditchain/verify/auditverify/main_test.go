package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	k, err := auditchain.NewKey("run.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	key, log := filepath.Join(dir, "key.pub"), filepath.Join(dir, "log")
	if err := os.WriteFile(key, []byte(k.Public().String()), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := auditchain.Open(log, auditchain.Config{Key: k})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(auditchain.Record{Kind: auditchain.Launch}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := run(key, log, verify.Options{}); err != nil {
		t.Error(err)
	}
	var bad *verify.Error
	if err := run(key, log, verify.Options{Anchored: 2}); !errors.As(err, &bad) || bad.Reason != verify.Rollback {
		t.Errorf("%v", err)
	}
	if err := run(filepath.Join(dir, "none"), log, verify.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
