// Package linuxtest is what tests that boot Linux share: the guest artefacts, and a console to look at. Machines do not enter.
package linuxtest

import (
	"bytes"
	"os"
	"sync"
	"testing"

	"github.com/qenex/qenex-kernel/guest/artefact"
)

// File returns the path of a guest artefact. Without it the test is skipped, or fails where QENEX_REQUIRE_GUEST is set.
func File(t testing.TB, name string) string {
	t.Helper()
	path, err := artefact.Path(name)
	if err != nil {
		if os.Getenv("QENEX_REQUIRE_GUEST") != "" {
			t.Fatal(err)
		}
		t.Skipf("NOT RUN: %v", err)
	}
	return path
}

// Console keeps what a guest writes. The zero value is ready; its methods may be called from any goroutine.
type Console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

// String returns all that was written.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}
