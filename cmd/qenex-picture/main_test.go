package main

import (
	"bytes"
	"encoding/json"
	"image/png"
	"strings"
	"testing"

	"github.com/qenex/qenex-kernel/scheduler/host"
	"github.com/qenex/qenex-kernel/scheduler/picture"
)

func TestRun(t *testing.T) {
	b, err := json.Marshal(picture.Chart{Placement: &picture.Placement{Host: host.Synthetic(1, 1, 1, 1, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(bytes.NewReader(b), &out); err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(&out); err != nil {
		t.Error(err)
	}
	if err := run(strings.NewReader("{}"), &out); err == nil || out.Len() > 0 {
		t.Errorf("error %v, %d bytes of a picture of nothing", err, out.Len())
	}
}
