// Command auditverify checks an audit log from its files and its public key, and nothing else of QENEX: who was given both needs no
// more. It prints what the log holds, or says what is wrong with it and exits with 1.
//
// usage: auditverify [-trusted CHECKPOINT]... [-anchored BLOCKS:HASH] [-difficulty BITS] [-unsealed NUMBER] PUBLIC-KEY LOG
package main

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/qenex/qenex-kernel/auditchain/verify"
)

func main() {
	var o verify.Options
	flag.Func("trusted", "a `FILE` with a checkpoint that was seen before; may be given more than once", func(name string) error {
		msg, err := os.ReadFile(name)
		o.Trusted = append(o.Trusted, msg)
		return err
	})
	flag.Func("anchored", "how many blocks were anchored and the last one's hash, as `BLOCKS:HASH`", func(s string) (err error) {
		n, sum, _ := strings.Cut(s, ":")
		if o.Anchored, err = strconv.ParseUint(n, 10, 64); err != nil {
			return err
		}
		hash, err := hex.DecodeString(sum)
		if err != nil || len(hash) != len(o.AnchorHash) {
			return fmt.Errorf("%q is not a SHA-256 digest", sum)
		}
		o.AnchorHash = [32]byte(hash)
		return nil
	})
	flag.IntVar(&o.Difficulty, "difficulty", 0, "leading zero `BITS` that every block's hash must have")
	flag.Uint64Var(&o.Unsealed, "unsealed", 0, "at most that `NUMBER` of records may be in no block; 0 for any number")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: auditverify [flags] PUBLIC-KEY LOG")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), o); err != nil {
		fmt.Fprintln(os.Stderr, "auditverify:", err)
		os.Exit(1)
	}
}

func run(key, dir string, o verify.Options) error {
	text, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	keys, err := verify.ParseKeys(string(text))
	if err != nil {
		return err
	}
	report, err := verify.Log(os.DirFS(dir), keys, o)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(report)
}
