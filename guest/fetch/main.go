// Command fetch downloads one file of known digest, continues where an interrupted run stopped, and shows how far it is:
//
//	fetch URL SHA256 FILE
//
// FILE appears only when it is whole and has that digest.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: fetch URL SHA256 FILE")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := fetch(ctx, os.Args[1], os.Args[2], os.Args[3], progress()); err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		os.Exit(1)
	}
}

// progress returns a function that prints a line every two seconds.
func progress() func(have, total int64) {
	next := time.Now().Add(2 * time.Second)
	return func(have, total int64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(2 * time.Second)
			fmt.Fprintln(os.Stderr, describe(have, total))
		}
	}
}

// describe says how much of a download is there.
func describe(have, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("guest:   %d MiB", have>>20)
	}
	return fmt.Sprintf("guest:   %d of %d MiB (%d%%)", have>>20, total>>20, have*100/total)
}
