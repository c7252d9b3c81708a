package fleet

import (
	"context"
	_ "embed" // the description of the interface
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// OpenAPI describes what the socket serves, as OpenAPI 3.1 in JSON.
//
//go:embed openapi.json
var OpenAPI []byte

// Bounds of requests.
const (
	maxBody      = 1 << 20 // bytes, of a request in JSON; an archive has no bound
	maxHeader    = 16 << 10
	maxStreams   = 32               // connections that have become streams
	maxOutput    = 1 << 20          // bytes, each of stdout and stderr of an exec
	headTime     = 10 * time.Second // to send a request's head
	bodyTime     = 10 * time.Second // to send a body in JSON
	idleTime     = 10 * time.Second // between two requests
	stopTime     = 30 * time.Second // the deadline of stop when none is given
	maxStop      = time.Hour
	farewellTime = 2 * time.Second // for the last answers when the process is to end
)

// Server answers what is asked of one machine.
type Server struct {
	vm      *VM
	machine Machine
	console *Console
	logs    map[string]*Log // by name: console, output; nil entries are missing
	http    http.Server
	served  chan struct{} // closed when Serve has returned

	mu       sync.Mutex
	streams  map[net.Conn]bool // protected by mu; nil after Close
	open     int               // protected by mu; streams, and those about to be
	stopping bool              // protected by mu
}

// NewServer makes the server of a machine and begins to serve. output may be nil.
func NewServer(vm *VM, m Machine, console *Console, consoleLog, output *Log) (*Server, error) {
	l, err := vm.listen()
	if err != nil {
		return nil, err
	}
	s := &Server{
		vm: vm, machine: m, console: console, served: make(chan struct{}),
		logs: map[string]*Log{"console": consoleLog, "output": output}, streams: map[net.Conn]bool{},
	}
	s.http = http.Server{
		Handler: s, ReadHeaderTimeout: headTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), // whoever sends nonsense is told so, and nobody else
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(l) // until Close
	}()
	return s, nil
}

// Close lets the answers that are under way be sent, ends all streams and stops serving.
func (s *Server) Close() {
	s.mu.Lock()
	streams := s.streams
	s.streams = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), farewellTime)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // whoever does not read its answer does without
	}
	for c := range streams {
		c.Close()
	}
	<-s.served
}

// route is one thing that can be asked. The description names the same; a test holds them together.
type route struct {
	method, path string
	query        []string // names of parameters
	serve        func(s *Server, w http.ResponseWriter, r *http.Request, query url.Values) error
}

var routes = []route{
	{"GET", "/v1/vm", nil, (*Server).getVM},
	{"GET", "/v1/metrics", nil, (*Server).getMetrics},
	{"GET", "/v1/openapi.json", nil, (*Server).getOpenAPI},
	{"POST", "/v1/stop", nil, (*Server).stop},
	{"POST", "/v1/kill", nil, (*Server).kill},
	{"POST", "/v1/pause", nil, (*Server).pause},
	{"POST", "/v1/resume", nil, (*Server).resume},
	{"POST", "/v1/exec", nil, (*Server).exec},
	{"GET", "/v1/files", []string{"path"}, (*Server).getFiles},
	{"PUT", "/v1/files", []string{"path"}, (*Server).putFiles},
	{"GET", "/v1/logs", []string{"stream", "follow"}, (*Server).getLogs},
	{"POST", "/v1/console", []string{"input"}, (*Server).attach},
	{"POST", "/v1/connect", []string{"port"}, (*Server).connect},
	{"GET", "/v1/balloon", nil, (*Server).getBalloon},
	{"PUT", "/v1/balloon", nil, (*Server).setBalloon},
}

// statusError is an error with its HTTP status.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// ServeHTTP finds the route. Every error is JSON.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := s.route(w, r)
	if err == nil {
		return
	}
	status := http.StatusInternalServerError
	var st *statusError
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		status = http.StatusRequestEntityTooLarge
	case errors.As(err, &st):
		status = st.status
	case errors.Is(err, ErrUnsupported):
		status = http.StatusNotImplemented
	case errors.Is(err, ErrWriter):
		status = http.StatusConflict
	}
	answer(w, status, map[string]string{"error": err.Error()})
}

func (s *Server) route(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, route := range routes {
		if route.path != r.URL.Path {
			continue
		}
		if route.method != r.Method {
			allowed = append(allowed, route.method)
			continue
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return badRequest("query: %v", err)
		}
		for name, values := range query {
			if !has(route.query, name) || len(values) != 1 {
				return badRequest("query parameter %.100q: %s %s takes each of %q once", name, r.Method, route.path, route.query)
			}
		}
		return route.serve(s, w, r, query)
	}
	if allowed != nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &statusError{http.StatusMethodNotAllowed, fmt.Errorf("%.20s %s: the method is %s", r.Method, r.URL.Path, strings.Join(allowed, " or "))}
	}
	return &statusError{http.StatusNotFound, fmt.Errorf("%.200q is not served; GET /v1/openapi.json says what is", r.URL.Path)}
}

func has(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// answer sends v as JSON. Whoever asked may be gone.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// read reads a request's body into v. No body is an empty object.
func read(w http.ResponseWriter, r *http.Request, v any) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // unix sockets can
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil {
		return &statusError{http.StatusBadRequest, fmt.Errorf("reading the request: %w", err)}
	}
	if len(b) == 0 {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest("the request is not what %s takes: %v", r.URL.Path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return badRequest("the request goes on behind its JSON")
	}
	return nil
}
