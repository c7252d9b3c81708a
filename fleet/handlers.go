package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

func (s *Server) getVM(w http.ResponseWriter, _ *http.Request, _ url.Values) error {
	answer(w, http.StatusOK, s.info())
	return nil
}

func (s *Server) info() Info {
	st := s.machine.Status()
	s.mu.Lock()
	if s.stopping && (st.State == StateRunning || st.State == StateStarting) {
		st.State = StateStopping
	}
	s.mu.Unlock()
	return Info{Spec: s.vm.Spec, Status: st, PID: s.vm.Process.PID, Dir: s.vm.dir}
}

func (s *Server) getMetrics(w http.ResponseWriter, _ *http.Request, _ url.Values) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = WriteMetrics(w, s.vm.Name, s.machine.Metrics()) // whoever asked may be gone
	return nil
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request, _ url.Values) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(OpenAPI)
	return nil
}

// StopRequest is the body of POST /v1/stop.
type StopRequest struct {
	DeadlineMS *int64 `json:"deadline_ms,omitempty"` // how long the guest may take, 0 to an hour; without it 30 s
}

// StopReply says how a machine came to its end.
type StopReply struct {
	How    string `json:"how"`              // guest: it powered off; killed: the machine was switched off
	Reason string `json:"reason,omitempty"` // of killed
}

// stop asks the guest to power off, and switches the machine off when the time is over.
func (s *Server) stop(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	var req StopRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	deadline := stopTime
	if req.DeadlineMS != nil {
		if *req.DeadlineMS < 0 || *req.DeadlineMS > maxStop.Milliseconds() {
			return badRequest("deadline_ms %d: it is 0 to %d", *req.DeadlineMS, maxStop.Milliseconds())
		}
		deadline = time.Duration(*req.DeadlineMS) * time.Millisecond
	}
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	// Not the request's context: who asked for the end and went away still wants it.
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	reply := StopReply{How: "guest"}
	err := s.machine.Resume() // a paused guest cannot power off
	if err == nil {
		err = s.machine.Shutdown(ctx)
	}
	if err != nil {
		reply = StopReply{"killed", "the guest could not be asked: " + err.Error()}
	} else {
		select {
		case <-s.machine.Done():
		case <-ctx.Done():
			reply = StopReply{"killed", fmt.Sprintf("the guest still ran after %v", deadline)}
		}
	}
	s.machine.Kill()
	<-s.machine.Done()
	answer(w, http.StatusOK, reply)
	return nil
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	if err := read(w, r, &struct{}{}); err != nil {
		return err
	}
	s.machine.Kill()
	<-s.machine.Done()
	answer(w, http.StatusOK, StopReply{How: "killed"})
	return nil
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	if err := read(w, r, &struct{}{}); err != nil {
		return err
	}
	if err := s.machine.Pause(r.Context()); err != nil {
		return &statusError{http.StatusConflict, err}
	}
	return s.getVM(w, r, nil)
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	if err := read(w, r, &struct{}{}); err != nil {
		return err
	}
	if err := s.machine.Resume(); err != nil {
		return &statusError{http.StatusConflict, err}
	}
	return s.getVM(w, r, nil)
}

// ExecRequest is the body of POST /v1/exec.
type ExecRequest struct {
	Command
	Stdin     string `json:"stdin,omitempty"`
	TimeoutMS int64  `json:"timeout_ms,omitempty"` // then the command is killed; 0: never
}

// ExecReply is its answer. Output is text: bytes that are no UTF-8 are replaced, and what is too long is cut off.
type ExecReply struct {
	Code      int    `json:"exit_code"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	Truncated bool   `json:"truncated,omitempty"`
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	var req ExecRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	if len(req.Args) == 0 || req.TimeoutMS < 0 || req.TimeoutMS > maxStop.Milliseconds() {
		return badRequest("exec takes args, at least one, and timeout_ms up to %d", maxStop.Milliseconds())
	}
	ctx := r.Context()
	if req.TimeoutMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutMS)*time.Millisecond)
		defer cancel()
	}
	g, err := s.machine.Guest(ctx)
	if err != nil {
		return err
	}
	stdout, stderr := &bounded{left: maxOutput}, &bounded{left: maxOutput}
	code, err := g.Exec(ctx, req.Command, strings.NewReader(req.Stdin), stdout, stderr)
	if err != nil {
		if ctx.Err() != nil && r.Context().Err() == nil {
			return &statusError{http.StatusGatewayTimeout, fmt.Errorf("%q still ran after %d ms", req.Args[0], req.TimeoutMS)}
		}
		return &statusError{http.StatusBadGateway, err}
	}
	answer(w, http.StatusOK, ExecReply{code, stdout.b.String(), stderr.b.String(), stdout.cut || stderr.cut})
	return nil
}

// bounded keeps the beginning of what is written.
type bounded struct {
	b    bytes.Buffer
	left int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.b.Write(p[:n])
	b.left -= n
	b.cut = b.cut || n < len(p)
	return len(p), nil
}

// guestPath is the path parameter of a request.
func guestPath(query url.Values) (string, error) {
	p := query.Get("path")
	if !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 || len(p) > 4096 {
		return "", badRequest("path %.100q: an absolute path in the guest", p)
	}
	return p, nil
}

func (s *Server) getFiles(w http.ResponseWriter, r *http.Request, query url.Values) error {
	p, err := guestPath(query)
	if err != nil {
		return err
	}
	g, err := s.machine.Guest(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	out := &started{w: w}
	err = g.CopyOut(r.Context(), p, out)
	if err != nil && out.any {
		panic(http.ErrAbortHandler) // half an archive: the connection ends without its end mark
	}
	if err != nil {
		return &statusError{http.StatusBadGateway, err}
	}
	return nil
}

// started notes whether anything was written.
type started struct {
	w   io.Writer
	any bool
}

func (s *started) Write(p []byte) (int, error) {
	s.any = s.any || len(p) > 0
	return s.w.Write(p)
}

func (s *Server) putFiles(w http.ResponseWriter, r *http.Request, query url.Values) error {
	p, err := guestPath(query)
	if err != nil {
		return err
	}
	g, err := s.machine.Guest(r.Context())
	if err != nil {
		return err
	}
	if err := g.CopyIn(r.Context(), p, r.Body); err != nil {
		return &statusError{http.StatusBadGateway, err}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// boolean reads a parameter that is true or false, and false if it is not there.
func boolean(query url.Values, name string) (bool, error) {
	switch v := query.Get(name); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, badRequest("%s %.100q: it is true or false", name, v)
	}
}

func (s *Server) getLogs(w http.ResponseWriter, r *http.Request, query url.Values) error {
	follow, err := boolean(query, "follow")
	if err != nil {
		return err
	}
	name := query.Get("stream")
	if name == "" {
		name = "console"
	}
	l, known := s.logs[name]
	if !known {
		return badRequest("stream %.100q: it is console or output", name)
	}
	if l == nil {
		return fmt.Errorf("%w: its command, if it has one, has the standard output of the process; log %s is kept with --detach", ErrUnsupported, name)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = http.NewResponseController(w).Flush()
	err = l.Copy(r.Context(), flusher{w}, follow)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// flusher sends what is written at once.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.w).Flush())
}

func (s *Server) getBalloon(w http.ResponseWriter, _ *http.Request, _ url.Values) error {
	b, err := s.machine.Balloon()
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, b)
	return nil
}

// BalloonRequest is the body of PUT /v1/balloon.
type BalloonRequest struct {
	Target *uint64 `json:"target_bytes"` // what the guest is to give up, less than its memory
}

func (s *Server) setBalloon(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	var req BalloonRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	if req.Target == nil || *req.Target >= s.vm.Memory {
		return badRequest("target_bytes is 0 to %d", s.vm.Memory-1)
	}
	if err := s.machine.SetBalloon(*req.Target); err != nil {
		return err
	}
	return s.getBalloon(w, r, nil)
}

// connect joins the connection to a vsock port of the guest.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, query url.Values) error {
	port, err := strconv.ParseUint(query.Get("port"), 10, 32)
	if err != nil {
		return badRequest("port %.100q: a vsock port, 0 to 4294967295", query.Get("port"))
	}
	if err := wantsStream(r); err != nil {
		return err
	}
	guest, err := s.machine.Dial(r.Context(), uint32(port))
	if err != nil {
		if !errors.Is(err, ErrUnsupported) {
			err = &statusError{http.StatusBadGateway, err}
		}
		return err
	}
	return s.stream(w, guest)
}

// attach joins the connection to the console.
func (s *Server) attach(w http.ResponseWriter, r *http.Request, query url.Values) error {
	input, err := boolean(query, "input")
	if err != nil {
		return err
	}
	if err := wantsStream(r); err != nil {
		return err
	}
	v, err := s.console.Attach(input)
	if err != nil {
		return err
	}
	return s.stream(w, v)
}

// streamProtocol is what a request for a stream upgrades to: bytes in both directions, each with its own end.
const streamProtocol = "qenex-stream"

func wantsStream(r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Upgrade") != streamProtocol {
		return &statusError{http.StatusUpgradeRequired, fmt.Errorf("%s gives a stream: send Connection: Upgrade and Upgrade: %s", r.URL.Path, streamProtocol)}
	}
	return nil
}

// stream takes the connection over and joins it to other, which it closes.
func (s *Server) stream(w http.ResponseWriter, other io.ReadWriteCloser) error {
	defer other.Close()
	if !s.reserve(1) {
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("%d streams are open, or the machine ends", maxStreams)}
	}
	defer s.reserve(-1)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer c.Close()
	if !s.keep(c) {
		return nil
	}
	defer s.forget(c)
	_ = c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+streamProtocol+"\r\n\r\n"); err != nil {
		return nil
	}
	ahead := io.MultiReader(io.LimitReader(rw.Reader, int64(rw.Reader.Buffered())), c)
	join(c.(*conn), ahead, other)
	return nil
}

// reserve makes room for n more streams, if there is.
func (s *Server) reserve(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && (s.open+n > maxStreams || s.streams == nil) {
		return false
	}
	s.open += n
	return true
}

// keep makes Close close c too; false says that it is too late.
func (s *Server) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		return false
	}
	s.streams[c] = true
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, c)
}

// join copies from a client, read through ahead, to other and back. Each direction ends by itself; a client that has hung up ends both.
func join(c *conn, ahead io.Reader, other io.ReadWriteCloser) {
	half, _ := other.(interface{ CloseWrite() error })
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		_, err := io.Copy(other, ahead)
		if half == nil || err != nil || hungUp(c.UnixConn) || half.CloseWrite() != nil {
			other.Close()
		}
	}()
	_, err := io.Copy(c, other)
	if half == nil || err != nil || c.CloseWrite() != nil {
		c.Close()
	}
	<-typed
}
