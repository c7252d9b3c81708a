// Command prebuild builds qenex and the test programs that need nothing but a kernel, for a machine without compilers:
// the svm lane's.
//
// usage: prebuild directory
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/qenex/qenex-kernel/internal/cc"
	"github.com/qenex/qenex-kernel/internal/programs"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: prebuild directory")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := programs.Prebuild(ctx, os.Args[1])
	switch {
	case errors.Is(err, cc.ErrNoCompiler):
		fmt.Fprintln(os.Stderr, "prebuild: NOT BUILT, and not tested where it is needed:", err)
	case err != nil:
		fmt.Fprintln(os.Stderr, "prebuild:", err)
		os.Exit(1)
	}
}
