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
	"net/url"
	"strconv"
	"time"
)

// answerTime bounds the wait for what every machine answers at once.
const answerTime = 5 * time.Second

// RemoteError is what a machine answered.
type RemoteError struct {
	Status int // of HTTP
	Text   string
}

func (e *RemoteError) Error() string { return e.Text }

// call sends a request with v as JSON, if it is not nil, and reads the answer into reply, if that is not nil.
func (v *VM) call(ctx context.Context, method, path string, body, reply any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	resp, err := v.Do(ctx, method, path, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if reply == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(reply); err != nil {
		return fmt.Errorf("machine %s: the answer to %s: %w", v.Name, path, err)
	}
	return nil
}

// Do sends a request. The body of a good answer is the caller's to close; any other is a *RemoteError.
func (v *VM) Do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return v.dial() },
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://machine"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // it repeats method and address
		}
		return nil, fmt.Errorf("machine %s: %w", v.Name, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, remoteError(resp)
	}
	return resp, nil
}

// remoteError reads the reason and closes the body.
func remoteError(resp *http.Response) error {
	defer resp.Body.Close()
	var e struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e); err != nil || e.Error == "" {
		e.Error = resp.Status
	}
	return &RemoteError{resp.StatusCode, e.Error}
}

// Info asks what the machine is doing. It never fails: the state says so if the machine does not answer, or has ended.
func (v *VM) Info(ctx context.Context) Info {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	info := Info{}
	if v.Alive() && v.call(ctx, http.MethodGet, "/v1/vm", nil, &info) == nil {
		return info
	}
	info = Info{Spec: v.Spec, Status: Status{State: StateSilent}, PID: v.Process.PID, Dir: v.dir, Outcome: v.Outcome}
	switch {
	case v.Outcome != nil:
		info.State = StateEnded
	case !v.Process.Alive():
		info.State = StateDead
	}
	return info
}

// Stop asks the guest to power off and switches the machine off if it has not within deadline.
func (v *VM) Stop(ctx context.Context, deadline time.Duration) (r StopReply, err error) {
	ms := deadline.Milliseconds()
	err = v.call(ctx, http.MethodPost, "/v1/stop", StopRequest{DeadlineMS: &ms}, &r)
	return r, err
}

// PowerOff switches the machine off.
func (v *VM) PowerOff(ctx context.Context) error {
	return v.call(ctx, http.MethodPost, "/v1/kill", nil, nil)
}

// Pause stops the machine's virtual CPUs.
func (v *VM) Pause(ctx context.Context) error {
	return v.call(ctx, http.MethodPost, "/v1/pause", nil, nil)
}

// Resume lets them run on.
func (v *VM) Resume(ctx context.Context) error {
	return v.call(ctx, http.MethodPost, "/v1/resume", nil, nil)
}

// Metrics writes the machine's metrics to w.
func (v *VM) Metrics(ctx context.Context, w io.Writer) error {
	return v.copy(ctx, "/v1/metrics", w)
}

// Logs writes what a log, console or output, holds to w, and with follow what comes until the machine ends.
func (v *VM) Logs(ctx context.Context, stream string, follow bool, w io.Writer) error {
	return v.copy(ctx, "/v1/logs?stream="+url.QueryEscape(stream)+"&follow="+strconv.FormatBool(follow), w)
}

func (v *VM) copy(ctx context.Context, path string, w io.Writer) error {
	resp, err := v.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Balloon asks for the state of the balloon.
func (v *VM) Balloon(ctx context.Context) (b Balloon, err error) {
	err = v.call(ctx, http.MethodGet, "/v1/balloon", nil, &b)
	return b, err
}

// SetBalloon asks the guest to give up that many bytes of its memory.
func (v *VM) SetBalloon(ctx context.Context, target uint64) (b Balloon, err error) {
	err = v.call(ctx, http.MethodPut, "/v1/balloon", BalloonRequest{&target}, &b)
	return b, err
}

// Connect connects to a vsock port of the guest.
func (v *VM) Connect(ctx context.Context, port uint32) (net.Conn, error) {
	return v.stream(ctx, "/v1/connect?port="+strconv.FormatUint(uint64(port), 10))
}

// Attach connects to the console, to type too if input is set.
func (v *VM) Attach(ctx context.Context, input bool) (net.Conn, error) {
	return v.stream(ctx, "/v1/console?input="+strconv.FormatBool(input))
}

// stream makes a connection that the machine joins to something. ctx bounds the making.
func (v *VM) stream(ctx context.Context, path string) (net.Conn, error) {
	c, err := v.dial()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	s, err := v.upgrade(c, path)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (v *VM) upgrade(c *net.UnixConn, path string) (net.Conn, error) {
	req, err := http.NewRequest(http.MethodPost, "http://machine"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", streamProtocol)
	if err := req.Write(c); err != nil {
		return nil, fmt.Errorf("machine %s: %w", v.Name, err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", v.Name, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, remoteError(resp)
	}
	return &streamConn{UnixConn: c, r: io.MultiReader(io.LimitReader(r, int64(r.Buffered())), c)}, nil
}

// streamConn reads what came with the answer first.
type streamConn struct {
	*net.UnixConn
	r io.Reader
}

func (s *streamConn) Read(p []byte) (int, error) { return s.r.Read(p) }
