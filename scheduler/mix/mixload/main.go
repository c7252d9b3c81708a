// Command mixload is the program in the guests of a mix, by itself: small, so that a guest starts at once.
package main

import (
	"os"

	"github.com/qenex/qenex-kernel/scheduler/mix"
)

func main() { os.Exit(mix.Load(os.Args[1:])) }
