package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ask sends a request and returns status and body.
func (b *bench) ask(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	resp, err := b.vm.Do(t.Context(), method, path, strings.NewReader(body))
	if e, ok := errors.AsType[*RemoteError](err); ok {
		return e.Status, e.Text
	}
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(text)
}

func TestRequests(t *testing.T) {
	b := newBench(t)
	if _, err := b.console.Write([]byte("booted\n")); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat(" ", maxBody+1)
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string // in the answer
	}{
		{"GET", "/v1/vm", "", 200, `"state":"running"`},
		{"POST", "/v1/pause", "", 200, `"state":"paused"`},
		{"POST", "/v1/resume", "{}", 200, `"state":"running"`},
		{"GET", "/v1/metrics", "", 200, "# HELP qenex_exits_total Exits.\n# TYPE qenex_exits_total counter\nqenex_exits_total{vm=\"web\",reason=\"a\\\"b\"} 2\nqenex_exits_total{vm=\"web\"} 0.5\n# HELP qenex_up Up.\n# TYPE qenex_up gauge\nqenex_up{vm=\"web\"} 1\n"},
		{"GET", "/v1/logs", "", 200, "booted\n"},
		{"GET", "/v1/logs?stream=console&follow=false", "", 200, "booted\n"},
		{"GET", "/v1/logs?stream=output", "", 501, "--detach"},
		{"GET", "/v1/logs?stream=other", "", 400, "console or output"},
		{"GET", "/v1/logs?follow=maybe", "", 400, "true or false"},
		{"GET", "/v1/logs?follow=true&follow=true", "", 400, "once"},
		{"GET", "/v1/vm?x=1", "", 400, `"x"`},
		{"GET", "/v1/vm?%zz", "", 400, "query"},
		{"DELETE", "/v1/vm", "", 405, "GET"},
		{"PATCH", "/v1/balloon", "", 405, "GET or PUT"},
		{"GET", "/v2/vm", "", 404, "openapi"},
		{"GET", "/v1/vm/", "", 404, "openapi"},
		{"GET", "/", "", 404, "openapi"},
		{"POST", "/v1/exec", `{"args":["cat"],"stdin":"text"}`, 200, `{"exit_code":3,"stdout":"text","stderr":""}`},
		{"POST", "/v1/exec", `{"args":["flood"]}`, 200, `"truncated":true`},
		{"POST", "/v1/exec", `{"args":["none"]}`, 502, "no such program"},
		{"POST", "/v1/exec", `{"args":["hang"],"timeout_ms":1}`, 504, "1 ms"},
		{"POST", "/v1/exec", `{"args":[]}`, 400, "at least one"},
		{"POST", "/v1/exec", "", 400, "at least one"},
		{"POST", "/v1/exec", `{"args":["cat"],"shell":true}`, 400, "shell"},
		{"POST", "/v1/exec", `{"args":"cat"}`, 400, "args"},
		{"POST", "/v1/exec", `{"args":["cat"]} {}`, 400, "goes on"},
		{"POST", "/v1/exec", `[`, 400, "/v1/exec"},
		{"POST", "/v1/exec", long, 413, "too large"},
		{"PUT", "/v1/files?path=/in", "archive", 204, ""},
		{"PUT", "/v1/files?path=/in", "other", 502, "other"},
		{"PUT", "/v1/files?path=in", "", 400, "absolute"},
		{"PUT", "/v1/files", "", 400, "absolute"},
		{"GET", "/v1/files?path=/out", "", 200, "archive"},
		{"GET", "/v1/files?path=/none", "", 502, "no such file"},
		{"GET", "/v1/files?path=%00", "", 400, "absolute"},
		{"PUT", "/v1/balloon", `{"target_bytes":4096}`, 200, `"target_bytes":4096`},
		{"GET", "/v1/balloon", "", 200, `"actual_bytes":4096`},
		{"PUT", "/v1/balloon", `{"target_bytes":1073741824}`, 400, "1073741823"},
		{"PUT", "/v1/balloon", `{}`, 400, "target_bytes"},
		{"PUT", "/v1/balloon", `{"target_bytes":-1}`, 400, "target_bytes"},
		{"POST", "/v1/console", "", 426, "Upgrade"},
		{"POST", "/v1/connect?port=1", "", 426, "Upgrade"},
		{"POST", "/v1/connect?port=4294967296", "", 400, "port"},
		{"POST", "/v1/stop", `{"deadline_ms":-1}`, 400, "deadline_ms"},
		{"POST", "/v1/stop", `{"deadline_ms":3600001}`, 400, "deadline_ms"},
		{"POST", "/v1/stop", "{}", 200, `"how":"guest"`},
		{"POST", "/v1/pause", "", 409, "ended"},
		{"GET", "/v1/vm", "", 200, `"state":"ended"`},
	} {
		status, text := b.ask(t, tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s %.60s: %d %.300q, want %d %q", tt.method, tt.path, tt.body, status, text, tt.status, tt.want)
		}
	}
}

// TestOpenAPI wants the description to name what is served, no more and no less, with its parameters and the fields of its answers.
func TestOpenAPI(t *testing.T) {
	type schema struct {
		Ref        string `json:"$ref"`
		Properties map[string]json.RawMessage
		Required   []string
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Parameters []struct{ Name, In string }
			Responses  map[string]json.RawMessage
			ID         string `json:"operationId"`
		}
		Components struct{ Schemas map[string]schema }
	}
	d := json.NewDecoder(bytes.NewReader(OpenAPI))
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("version %q", doc.OpenAPI)
	}
	ids := map[string]bool{}
	described := map[string][]string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			var names []string
			for _, p := range op.Parameters {
				if p.In != "query" {
					t.Errorf("%s %s: parameter %s in %s", method, path, p.Name, p.In)
				}
				names = append(names, p.Name)
			}
			described[strings.ToUpper(method)+" "+path] = names
			if ids[op.ID] || op.ID == "" || op.Responses["default"] == nil {
				t.Errorf("%s %s: operationId %q twice, or no response for errors", method, path, op.ID)
			}
			ids[op.ID] = true
		}
	}
	for _, r := range routes {
		key := r.method + " " + r.path
		names, ok := described[key]
		if !ok || !slices.Equal(names, r.query) {
			t.Errorf("%s: served with parameters %q, described (%v) with %q", key, r.query, ok, names)
		}
		delete(described, key)
	}
	if len(described) != 0 {
		t.Errorf("described and not served: %v", described)
	}
	code := 1
	for name, v := range map[string]any{
		"VM": Info{
			Spec:   Spec{Image: "i", Command: []string{"c"}, Disks: []string{"d"}, Net: "n", Publish: []string{"p"}, Shares: []string{"s"}, Vsock: "v"},
			Status: Status{CommandCode: &code}, Outcome: &Outcome{},
		},
		"Outcome": Outcome{Text: "t", Ended: time.Now()}, "Balloon": Balloon{Stats: map[string]uint64{"x": 1}}, "BalloonRequest": BalloonRequest{},
		"StopRequest": StopRequest{DeadlineMS: new(int64)}, "StopReply": StopReply{Reason: "r"}, "ExecReply": ExecReply{Truncated: true},
		"ExecRequest": ExecRequest{Command: Command{Env: []string{"e"}, Dir: "d", User: "u"}, Stdin: "s", TimeoutMS: 1},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(b, &fields); err != nil {
			t.Fatal(err)
		}
		s := doc.Components.Schemas[name]
		for f := range fields {
			if s.Properties[f] == nil {
				t.Errorf("schema %s does not describe %s", name, f)
			}
		}
		for f := range s.Properties {
			if fields[f] == nil {
				t.Errorf("schema %s describes %s, which there is not", name, f)
			}
		}
		for _, f := range s.Required {
			if fields[f] == nil {
				t.Errorf("schema %s requires %s, which there is not", name, f)
			}
		}
	}
	if status, text := newBench(t).ask(t, "GET", "/v1/openapi.json", ""); status != 200 || text != string(OpenAPI) {
		t.Errorf("served: %d, %d bytes", status, len(text))
	}
}

func TestStop(t *testing.T) {
	b := newBench(t)
	b.m.obeys = false
	if err := b.vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := b.vm.Stop(t.Context(), time.Millisecond)
	if err != nil || r.How != "killed" || !strings.Contains(r.Reason, "1ms") || b.m.asked != 1 {
		t.Errorf("%+v, %v, asked %d times", r, err, b.m.asked)
	}
	b = newBench(t)
	if err := b.vm.PowerOff(t.Context()); err != nil || b.m.Status().State != StateEnded || b.m.asked != 0 {
		t.Errorf("%v, %s, asked %d times", err, b.m.Status().State, b.m.asked)
	}
}

func TestStreams(t *testing.T) {
	b := newBench(t)
	c, err := b.vm.Connect(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil { // the guest notices, and answers on
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || string(all) != "port 7\nhello\nend\n" {
		t.Errorf("%q, %v", all, err)
	}
	c.Close()
	if _, err := b.vm.Connect(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port that nobody listens on: %v", err)
	}

	typist, err := b.vm.Attach(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.vm.Attach(t.Context(), true); err == nil || !strings.Contains(err.Error(), "types") {
		t.Errorf("a second typist: %v", err)
	}
	viewer, err := b.vm.Attach(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(typist, "ls\n"); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 3)
	if _, err := io.ReadFull(b.console.Input(t.Context()), in); err != nil || string(in) != "ls\n" {
		t.Errorf("%q, %v", in, err)
	}
	if _, err := b.console.Write([]byte("files\n")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{typist, viewer} {
		if line, err := bufio.NewReader(c).ReadString('\n'); line != "files\n" || err != nil {
			t.Errorf("%q, %v", line, err)
		}
	}
	typist.Close() // another may type now
	for {
		again, err := b.vm.Attach(t.Context(), true)
		if err == nil {
			again.Close()
			break
		}
	}
	b.console.Close()
	if rest, err := io.ReadAll(viewer); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	viewer.Close()
}

// TestAbuse sends what no client of ours would, and wants the machine to be served as before.
func TestAbuse(t *testing.T) {
	b := newBench(t)
	raw := func(text string) string {
		c, err := b.vm.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, text) // it need not be read to its end
		_ = c.CloseWrite()
		reply, _ := io.ReadAll(c)
		return string(reply)
	}
	for text, want := range map[string]string{
		"":                        "",
		"\x00\x01\x02\r\n\r\n":    "400",
		"GET / HTTP/1.1\r\n\r\n":  "400", // no host
		"GET /v1/vm HTTP/9.9\r\n": "400",
		"PRI * HTTP/2.0\r\n\r\n":  "",
		"GET /v1/vm HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n":                       "431",
		"POST /v1/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n":                     "400",
		"POST /v1/exec HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx":        "400",
		"POST /v1/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{":                                     "400",
		"POST /v1/kill HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"a\":1}":                               "400",
		"POST /v1/connect?port=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello": "426",
	} {
		if got := raw(text); !strings.Contains(got, want) {
			t.Errorf("%.80q: %.200q, want %s", text, got, want)
		}
	}
	// Half requests on as many connections as there may be, and more.
	var silent []net.Conn
	for range maxConns - 1 {
		c, err := b.vm.dial()
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		if _, err := io.WriteString(c, "GET /v1/vm HT"); err != nil {
			t.Fatal(err)
		}
	}
	if info := b.vm.Info(t.Context()); info.State != StateRunning {
		t.Errorf("state %s beside silent connections", info.State)
	}
	for _, c := range silent {
		c.Close()
	}
	var streams []net.Conn
	for {
		c, err := b.vm.Attach(t.Context(), false)
		if err != nil {
			if e, ok := errors.AsType[*RemoteError](err); !ok || e.Status != http.StatusServiceUnavailable {
				t.Error(err)
			}
			break
		}
		streams = append(streams, c)
	}
	if len(streams) != maxStreams {
		t.Errorf("%d streams", len(streams))
	}
	if info := b.vm.Info(t.Context()); info.State != StateRunning || b.m.killed != 0 {
		t.Errorf("state %s, killed %d times", info.State, b.m.killed)
	}
	b.server.Close() // ends them all
	for _, c := range streams {
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if _, err := b.vm.dial(); err == nil {
		t.Error("connected to a closed server")
	}
}

// TestTogether asks for everything at once.
func TestTogether(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				for _, r := range [][3]string{
					{"POST", "/v1/pause"}, {"GET", "/v1/vm"}, {"POST", "/v1/resume"}, {"GET", "/v1/logs"}, {"POST", "/v1/exec", `{"args":["cat"],"stdin":"x"}`}, {"GET", "/v1/metrics"},
				} {
					if status, text := b.ask(t, r[0], r[1], r[2]); status != 200 {
						t.Errorf("%s: %d %s", r[1], status, text)
					}
				}
				fmt.Fprintf(b.console, "line of %d\n", i)
			}
		})
	}
	all.Wait()
}

// FuzzRequests sends any method, target and body to the handler itself.
func FuzzRequests(f *testing.F) {
	for _, r := range routes {
		f.Add(r.method, r.path+"?"+strings.Join(r.query, "=true&")+"=1", []byte(`{"args":["cat"],"deadline_ms":0,"target_bytes":1}`))
	}
	f.Add("POST", "/v1/exec", []byte(`{"args":["cat"],"env":[null],"stdin":"\ud800","timeout_ms":1e3}`))
	b := newBench(f)
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(u.Path, "/v1/stop") || strings.HasPrefix(u.Path, "/v1/kill") {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // to follow a log
		defer cancel()
		r := (&http.Request{Method: method, URL: u, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}).WithContext(ctx)
		w := httptest.NewRecorder()
		b.server.ServeHTTP(w, r)
		if w.Code >= 400 {
			var e struct{ Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error == "" {
				t.Errorf("%s %s: %d with %q", method, target, w.Code, w.Body)
			}
		}
		if state := b.m.Status().State; state != StateRunning && state != StatePaused {
			t.Errorf("%s %s: the machine is %s", method, target, state)
		}
	})
}
