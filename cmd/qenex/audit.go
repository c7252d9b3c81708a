package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
	"github.com/qenex/qenex-kernel/trust"
)

type auditCmd struct {
	Show   auditShowCmd   `cmd:"" help:"Print records."`
	Tail   auditTailCmd   `cmd:"" help:"Print the last records, and those that come."`
	Verify auditVerifyCmd `cmd:"" help:"Check all of the log: every record, tile, block and signature, and the TPM's count of blocks."`
	Prove  auditProveCmd  `cmd:"" help:"Print the proof that the log has a record, for any verifier of C2SP tlog-proof."`
	Block  auditBlockCmd  `cmd:"" help:"Print a block, or all."`
	Export auditExportCmd `cmd:"" help:"Copy the log and its public key, for a verifier elsewhere."`
}

// auditFlags say which log.
type auditFlags struct {
	Log  string `placeholder:"DIR" help:"The log (default: this host's)."`
	Key  string `placeholder:"FILE" help:"Its public key (default: this host's)."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// files are the log's directory and its public key.
func (f *auditFlags) files() (dir, key string, err error) {
	state, err := trust.DefaultState()
	if err != nil && (f.Log == "" || f.Key == "") {
		return "", "", err
	}
	if dir = f.Log; dir == "" {
		dir = state.Log()
	}
	if f.Key == "" {
		key, err = state.Public()
		return dir, key, err
	}
	text, err := os.ReadFile(f.Key)
	return dir, string(text), err
}

func (f *auditFlags) open() (*auditchain.Reader, error) {
	dir, text, err := f.files()
	if err != nil {
		return nil, inputError("%w", err)
	}
	pub, err := auditchain.ParsePublic(text)
	if err != nil {
		return nil, inputError("%w", err)
	}
	return auditchain.OpenReader(dir, pub)
}

// filter chooses records.
type filter struct {
	VM   string `name:"vm" placeholder:"NAME" help:"Only of this VM."`
	Kind string `placeholder:"KIND" help:"Only of this kind: command, launch, stop, fault, syscall, block, gap, ..."`
}

// print prints the records from to to-1 that the filter lets pass.
func (f *filter) print(w io.Writer, r *auditchain.Reader, from, to uint64, asJSON bool) error {
	for e, err := range r.Records(from, to) {
		if err != nil {
			return err
		}
		if f.VM != "" && e.Record.VM != f.VM || f.Kind != "" && e.Record.Kind.String() != f.Kind {
			continue
		}
		if asJSON {
			err = printLine(w, struct {
				Index  uint64            `json:"index"`
				Record auditchain.Record `json:"record"`
			}{e.Index, e.Record})
		} else {
			_, err = fmt.Fprintln(w, recordText(e))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// recordText is a record for people. What comes from a guest is quoted.
func recordText(e auditchain.Entry) string {
	r := e.Record
	text := fmt.Sprintf("%8d  %s  %-8v %-12s vm=%q who=%q result=%d", e.Index, time.Unix(0, r.Time).UTC().Format(time.RFC3339Nano), r.Kind, r.Verb, r.VM, r.Who, r.Result)
	if r.Args != [32]byte{} {
		text += " args=" + hex.EncodeToString(r.Args[:8])
	}
	if r.Detail != "" {
		text += fmt.Sprintf(" %q", r.Detail)
	}
	return text
}

type auditShowCmd struct {
	auditFlags `embed:""`
	filter     `embed:""`
	From       uint64  `placeholder:"N" help:"From this record on (default: the first)."`
	To         *uint64 `placeholder:"N" help:"And to the one before this (default: the last)."`
}

// Run prints records.
func (c *auditShowCmd) Run() error {
	r, err := c.open()
	if err != nil {
		return err
	}
	to := r.Head().Size
	if c.To != nil {
		to = *c.To
	}
	return c.print(os.Stdout, r, c.From, to, c.JSON)
}

type auditTailCmd struct {
	auditFlags `embed:""`
	filter     `embed:""`
	Lines      uint64 `short:"n" default:"10" placeholder:"N" help:"How many of those that are there (default: ${default})."`
}

// tailInterval is how often the log is looked at: its writer tells nobody.
const tailInterval = 200 * time.Millisecond

// Run prints records until it is told to end.
func (c *auditTailCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	r, err := c.open()
	if err != nil {
		return err
	}
	tick := time.NewTicker(tailInterval)
	defer tick.Stop()
	from := r.Head().Size - min(c.Lines, r.Head().Size)
	for {
		if err := c.print(os.Stdout, r, from, r.Head().Size, c.JSON); err != nil {
			return err
		}
		from = r.Head().Size
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if r, err = r.Next(); err != nil {
			return err
		}
	}
}

type auditVerifyCmd struct {
	auditFlags `embed:""`
	Trusted    []string `placeholder:"FILE" help:"A checkpoint that was seen before: the log must contain it."`
	Difficulty int      `placeholder:"BITS" help:"Proof of work that every block must have."`
}

// Run checks the log.
func (c *auditVerifyCmd) Run() error {
	dir, text, err := c.files()
	if err != nil {
		return inputError("%w", err)
	}
	keys, err := verify.ParseKeys(text)
	if err != nil {
		return inputError("%w", err)
	}
	o := verify.Options{Difficulty: c.Difficulty}
	for _, name := range c.Trusted {
		msg, err := os.ReadFile(name)
		if err != nil {
			return inputError("--trusted: %w", err)
		}
		o.Trusted = append(o.Trusted, msg)
	}
	anchored := false
	if c.Log == "" {
		if anchored, err = c.askAnchor(&o); err != nil {
			return err
		}
	}
	report, err := verify.Log(os.DirFS(dir), keys, o)
	if err != nil {
		return err
	}
	if c.JSON {
		return printLine(os.Stdout, report)
	}
	fmt.Printf("the log is good: %d records, %d of them in %d blocks, %d dropped, root %x\n", report.Size, report.Sealed, report.Blocks, report.Gaps, report.Root[:])
	if !anchored {
		fmt.Println("not compared with the TPM's count of blocks: no keeper runs")
	}
	return nil
}

// askAnchor asks what the TPM counts, if a keeper runs. The log may grow meanwhile, and never shrink.
func (c *auditVerifyCmd) askAnchor(o *verify.Options) (bool, error) {
	client, err := commandLog()
	if client == nil {
		return false, err
	}
	a, err := client.Anchored()
	if err = errors.Join(err, client.Close()); err != nil {
		return false, err
	}
	o.Anchored, o.AnchorHash = a.Blocks, a.Hash
	return true, nil
}

type auditProveCmd struct {
	auditFlags `embed:""`
	Record     uint64 `arg:"" help:"The record's number."`
}

// Run prints a proof.
func (c *auditProveCmd) Run() error {
	r, err := c.open()
	if err != nil {
		return err
	}
	entry, proof, err := r.Prove(c.Record)
	if err != nil {
		return err
	}
	if c.JSON {
		return printLine(os.Stdout, struct {
			Record []byte `json:"record"` // its encoding
			Proof  string `json:"proof"`
		}{entry, string(proof)})
	}
	_, err = os.Stdout.Write(proof)
	return err
}

type auditBlockCmd struct {
	auditFlags `embed:""`
	Height     *uint64 `arg:"" optional:"" help:"Of which block (default: all)."`
}

// Run prints blocks.
func (c *auditBlockCmd) Run() error {
	r, err := c.open()
	if err != nil {
		return err
	}
	count, err := r.Blocks()
	if err != nil {
		return err
	}
	from := uint64(0)
	if c.Height != nil {
		if from = *c.Height; from >= count {
			return inputError("there is no block %d: the log has %d", from, count)
		}
		count = from + 1
	}
	for ; from < count; from++ {
		b, err := r.Block(from)
		if err != nil {
			return err
		}
		if c.JSON {
			err = printLine(os.Stdout, b)
		} else {
			hash := b.Hash()
			_, err = fmt.Printf("%8d  %s  records %d to %d  hash %x  previous %x  root %x\n", b.Height, time.Unix(0, b.Time).UTC().Format(time.RFC3339Nano),
				b.First, b.End-1, hash[:8], b.Previous[:8], b.Root[:8])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type auditExportCmd struct {
	Log string `placeholder:"DIR" help:"The log (default: this host's)."`
	Key string `placeholder:"FILE" help:"Its public key (default: this host's)."`
	To  string `arg:"" placeholder:"DIR" help:"New directory: the log in DIR/log, the key in DIR/key.pub."`
}

// exportTries is how often a log is copied that is written meanwhile.
const exportTries = 10

// Run copies the log, and checks the copy.
func (c *auditExportCmd) Run() error {
	dir, text, err := (&auditFlags{Log: c.Log, Key: c.Key}).files()
	if err != nil {
		return inputError("%w", err)
	}
	keys, err := verify.ParseKeys(text)
	if err != nil {
		return inputError("%w", err)
	}
	if err := os.Mkdir(c.To, 0o700); err != nil {
		return inputError("%w", err)
	}
	to := filepath.Join(c.To, "log")
	for try := 1; ; try++ {
		if err = os.CopyFS(to, os.DirFS(dir)); err == nil {
			_, err = verify.Log(os.DirFS(to), keys, verify.Options{})
		}
		if err == nil || try == exportTries {
			break
		}
		// A commit may have come between two files.
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.To, "key.pub"), []byte(text), 0o644)
}

// auditRecord is the record of a command.
func auditRecord(verb, vm string, args []string) auditchain.Record {
	return auditchain.Record{Kind: auditchain.Command, Verb: verb, VM: vm, Args: argsDigest(args)}
}
