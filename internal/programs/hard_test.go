package programs

import (
	"testing"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// TestHard does what a ring-0 core easily gets wrong, by a program without shared libraries and one with.
func TestHard(t *testing.T) {
	t.Run("static", func(t *testing.T) { compareChecks(t, needC(t, "hard", cc.Static), 180) })
	t.Run("dynamic", func(t *testing.T) { compareChecks(t, needC(t, "hard"), 180) })
}
