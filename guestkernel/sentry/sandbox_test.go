package sentry

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// childEnv tells the test binary to be a sandbox with the spec in it.
const childEnv = "QENEX_SENTRY_TEST_SPEC"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(child(text))
	}
	os.Exit(m.Run())
}

// child runs a sandbox and gives its exit code.
func child(text string) int {
	var spec Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 99
	}
	s, err := New(spec)
	if err == nil {
		if confinable {
			_, err = s.Confine()
		}
		if err == nil {
			err = s.Start()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 98
	}
	st, err := s.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 97
	}
	return st.Shell()
}
