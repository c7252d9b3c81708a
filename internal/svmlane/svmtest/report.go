package main

import (
	"fmt"

	"github.com/qenex/qenex-kernel/internal/svmlane"
)

// reporter prints what the test binaries print, as go test would.
type reporter struct {
	spec svmlane.Spec
	last int // the binary of the line printed last
}

// line prints one line of binary i. A passing binary's closing PASS is go test's own to print.
func (r *reporter) line(i int, text string) {
	if text == "PASS" {
		return
	}
	if i != r.last {
		fmt.Printf("# %s\n", r.spec.Binaries[i].Name)
		r.last = i
	}
	fmt.Println(text)
}

// summary prints go test's closing line for each package; ok: all passed.
func (r *reporter) summary(results []svmlane.Result) (ok bool) {
	ok = true
	for _, res := range results {
		switch {
		case !res.Ran:
			ok = false
			fmt.Printf("FAIL\t%s\t[svm lane: the machine ended first]\n", res.Name)
		case res.ExitCode != 0:
			ok = false
			fmt.Printf("FAIL\t%s\t%.3fs [svm lane: exit code %d]\n", res.Name, res.Elapsed.Seconds(), res.ExitCode)
		default:
			fmt.Printf("ok  \t%s\t%.3fs [svm lane]\n", res.Name, res.Elapsed.Seconds())
		}
	}
	return ok
}
