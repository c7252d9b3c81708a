package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/qenex/qenex-kernel/agent/wire"
)

// readyLimit is how long a connection may keep Ready from the next one.
const readyLimit = 5 * time.Second

// Ready waits until the guest's agent reports on l, which listens for the guest's connections to the host's Port, that it takes
// requests. Any process of the guest can say so; a lie gains it nothing. It closes l when ctx ends, else leaves it open.
func Ready(ctx context.Context, l net.Listener) (Info, error) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return Info{}, fmt.Errorf("wait for the guest's agent: %w", err)
		}
		if m, err := readReady(conn); err == nil {
			return m, nil
		}
	}
}

func readReady(conn net.Conn) (m Info, err error) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(readyLimit))
	k, p, err := wire.NewConn(conn).Receive()
	if err == nil && (k != wire.Ready || len(p) == 0 || p[0] != wire.Version) {
		err = wire.ErrFrame
	}
	if err == nil {
		err = m.Parse(p[1:])
	}
	return m, err
}
