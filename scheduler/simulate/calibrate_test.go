package simulate

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestCalibrate measures this machine; with QENEX_CALIBRATE set it prints what it found.
func TestCalibrate(t *testing.T) {
	if testing.Short() {
		t.Skip("measures the machine")
	}
	c, err := Calibrate()
	if err != nil {
		if strings.Contains(err.Error(), "the machine is busy") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("QENEX_CALIBRATE") != "" {
		t.Logf("%s", b)
	}
	back, err := ReadCalibration(bytes.NewReader(b))
	if err != nil || back.Switch != c.Switch || back.Wake != c.Wake {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestBadCalibration(t *testing.T) {
	for _, s := range []string{"", "{", "[]", `{"smt":1}`, `{"smt":2,"tick_ns":4000000,"slice_ns":0}`, `{"smt":1,"tick_ns":4000000,"what":1}`,
		`{"smt":1,"tick_ns":4000000,"switch_ns":-1}`} {
		if _, err := ReadCalibration(strings.NewReader(s)); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if err := DefaultCalibration().Check(); err != nil {
		t.Error(err)
	}
}
