// Command goload is a Go program as busy as they come: goroutines, channels, loopback TCP, garbage, timers and a
// child of its own. What it prints is the same in every run.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Println("child", os.Args[1])
		os.Exit(3)
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "goload:", err)
		os.Exit(1)
	}
}

func work() error {
	fmt.Println("goroutines", goroutines(200))
	sum, err := echo(20, 50)
	if err != nil {
		return err
	}
	fmt.Println("echoed bytes", sum)
	fmt.Printf("garbage %x\n", garbage(200))
	fmt.Println("timers", timers(100))
	n, err := signals(20)
	if err != nil {
		return err
	}
	fmt.Println("signals", n)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := exec.Command(self, "of mine").Output()
	fmt.Printf("%s%v\n", out, err)
	return nil
}

// goroutines has n of them count to 1000 by turns over one unbuffered channel.
func goroutines(n int) int {
	c := make(chan int)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for range 100 {
				c <- i
			}
		})
	}
	go func() { wg.Wait(); close(c) }()
	sum := 0
	for v := range c {
		sum += v
	}
	return sum
}

// echo sends n messages over each of some TCP connections and returns how many bytes came back.
func echo(connections, n int) (int64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	var sum atomic.Int64
	errs := make(chan error, connections)
	for range connections {
		go func() { errs <- talk(l.Addr().String(), n, &sum) }()
	}
	for range connections {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return sum.Load(), err
}

func talk(address string, n int, sum *atomic.Int64) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 1000)
	for range n {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		sum.Add(int64(len(buf)))
	}
	return nil
}

// garbage makes and drops memory while it hashes, with a collection now and then.
func garbage(n int) []byte {
	h := sha256.New()
	var keep [8][]byte
	for i := range n {
		b := make([]byte, 256<<10)
		for k := range b {
			b[k] = byte(i * k)
		}
		keep[i%len(keep)] = b
		h.Write(keep[(i+3)%len(keep)])
		if i%50 == 0 {
			runtime.GC()
		}
	}
	return h.Sum(nil)[:8]
}

func timers(n int) int {
	c := make(chan int, n)
	for i := range n {
		time.AfterFunc(time.Duration(i%10)*time.Millisecond, func() { c <- 1 })
	}
	sum := 0
	for range n {
		sum += <-c
	}
	return sum
}

func signals(n int) (int, error) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	defer signal.Stop(c)
	for i := range n {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			return i, err
		}
		<-c
	}
	return n, nil
}
