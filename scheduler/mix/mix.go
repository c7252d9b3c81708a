package mix

import (
	"errors"
	"fmt"
	"strings"
)

// A Guest of a mix, as declared.
type Guest struct {
	Name string
	Kind Kind
	Gang int // 0 none; guests of one gang, Kind Lock, share a spinlock
	Peer int // index of the other one of a ping-pong pair, -1 none
}

// Latency says whether the guest wakes up briefly and often.
func (g Guest) Latency() bool { return g.Kind == Server || g.Kind == Ping || g.Kind == Pong }

// Busy says whether the guest takes all the CPU time that it gets.
func (g Guest) Busy() bool { return g.Kind == Hog || g.Kind == Lock }

// A Mix is a set of guests that run at once.
type Mix struct {
	Name   string
	Guests []Guest
}

// Make makes a mix: gangs of two guests each, ping-pong pairs, latency servers and batch hogs.
func Make(name string, gangs, pairs, servers, hogs int) Mix {
	m := Mix{Name: name}
	add := func(kind Kind, gang, peer int) {
		same := 0
		for _, g := range m.Guests {
			if g.Kind == kind {
				same++
			}
		}
		m.Guests = append(m.Guests, Guest{fmt.Sprintf("%s%d", kind, same), kind, gang, peer})
	}
	for i := range gangs {
		add(Lock, i+1, -1)
		add(Lock, i+1, -1)
	}
	for range pairs {
		add(Ping, 0, len(m.Guests)+1)
		add(Pong, 0, len(m.Guests)-1)
	}
	for range servers {
		add(Server, 0, -1)
	}
	for range hogs {
		add(Hog, 0, -1)
	}
	return m
}

// Mixes are the five that policies are compared on.
func Mixes() []Mix {
	return []Mix{
		Make("gangs", 2, 0, 0, 2),
		Make("pairs", 0, 2, 0, 2),
		Make("batch", 0, 0, 0, 5),
		Make("servers", 0, 0, 4, 3),
		Make("all", 1, 1, 2, 2),
	}
}

// Named is the mix of Mixes with this name.
func Named(name string) (Mix, error) {
	var names []string
	for _, m := range Mixes() {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return Mix{}, fmt.Errorf("no mix %q: there are %s", name, strings.Join(names, ", "))
}

// check refuses what cannot be started.
func (m *Mix) check() error {
	if len(m.Guests) == 0 || len(m.Guests) > 64 {
		return fmt.Errorf("mix %s: %d guests: 1 to 64 can be run", m.Name, len(m.Guests))
	}
	for i, g := range m.Guests {
		switch paired := g.Kind == Ping || g.Kind == Pong; {
		case g.Name == "":
			return fmt.Errorf("mix %s: guest %d has no name", m.Name, i)
		case (g.Kind == Lock) != (g.Gang > 0) || g.Gang >= pageSize/64:
			return fmt.Errorf("mix %s: %s: %s with gang %d: guests of kind lock have one, of 1 to %d", m.Name, g.Name, g.Kind, g.Gang, pageSize/64-1)
		case !paired && g.Peer != -1:
			return fmt.Errorf("mix %s: %s: %s with a peer: only ping and pong have one", m.Name, g.Name, g.Kind)
		case paired && (g.Peer < 0 || g.Peer >= len(m.Guests) || m.Guests[g.Peer].Peer != i || m.Guests[g.Peer].Kind == g.Kind):
			return fmt.Errorf("mix %s: %s: its peer %d is not the other one of a pair of ping and pong", m.Name, g.Name, g.Peer)
		}
		if !map[Kind]bool{Hog: true, Lock: true, Ping: true, Pong: true, Server: true}[g.Kind] {
			return errors.New("mix " + m.Name + ": " + g.Name + ": unknown kind " + string(g.Kind))
		}
	}
	return nil
}
