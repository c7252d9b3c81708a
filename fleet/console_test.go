package fleet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	c := NewConsole(&out, nil)
	first, err := c.Attach(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Attach(true); !errors.Is(err, ErrWriter) {
		t.Errorf("a second who types: %v", err)
	}
	if err := c.Own(); !errors.Is(err, ErrWriter) {
		t.Errorf("a second who types: %v", err)
	}
	second, err := c.Attach(false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write([]byte("x")); !errors.Is(err, ErrWriter) {
		t.Errorf("a viewer types: %v", err)
	}
	if _, err := c.Write([]byte("hello")); err != nil || out.String() != "hello" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for _, v := range []*Viewer{first, second} {
		b := make([]byte, 5)
		if _, err := io.ReadFull(v, b); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := c.Input(ctx)
	go func() { _, _ = first.Write([]byte("typed")) }()
	b := make([]byte, 5)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "typed" {
		t.Errorf("%q, %v", b, err)
	}
	cancel() // the machine has ended, the next one goes on
	if n, err := in.Read(b); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if err := first.CloseWrite(); err != nil {
		t.Error(err)
	}
	if err := c.Own(); err != nil {
		t.Errorf("nobody types, and still: %v", err)
	}
	c.Close()
	if rest, err := io.ReadAll(second); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if _, err := c.Attach(false); err == nil {
		t.Error("attached to a closed console")
	}
	if err := c.Type(t.Context(), []byte("x")); err == nil {
		t.Error("typed at a closed console")
	}
}

// TestSlowViewer wants a viewer that does not read to be lost, and nobody else to notice.
func TestSlowViewer(t *testing.T) {
	c := NewConsole(nil, nil)
	slow, err := c.Attach(true)
	if err != nil {
		t.Fatal(err)
	}
	chunk := []byte(strings.Repeat("x", 1000))
	for range viewerBuffer/len(chunk) + 1 {
		if _, err := c.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(slow); err != nil || len(got) > viewerBuffer || len(got) < viewerBuffer-len(chunk) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := c.Own(); err != nil {
		t.Errorf("who was lost still types: %v", err)
	}
	if err := slow.Close(); err != nil {
		t.Error(err)
	}
}
