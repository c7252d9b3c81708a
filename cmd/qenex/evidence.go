package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/tpm"
	"github.com/qenex/qenex-kernel/trust"
	"github.com/qenex/qenex-kernel/vmm"
)

// trustFlags ask for evidence of a guest.
type trustFlags struct {
	Measure bool   `env:"QENEX_MEASURE" help:"Before the guest runs, measure what it is made of into the TPM: /dev/tpmrm0, or a swtpm. It is not the default because all of it must be read."`
	Audit   string `env:"QENEX_AUDIT" default:"off" placeholder:"WHAT" help:"Record in the audit log: off, events (launch, faults, end), and of a program's system calls security (those that matter to it), sampled=N (these, and each Nth of the others) or all (default: ${default})."`
}

// auditPolicy is what --audit asks for.
type auditPolicy struct {
	on    bool
	calls bool   // system calls that matter to security
	every uint64 // each that many-th of the others; 0: none
}

func parseAudit(text string) (p auditPolicy, err error) {
	n, sampled := strings.CutPrefix(text, "sampled=")
	switch {
	case text == "off":
	case text == "events":
		p.on = true
	case text == "security":
		p.on, p.calls = true, true
	case text == "all":
		p = auditPolicy{true, true, 1}
	case sampled:
		p.on, p.calls = true, true
		if p.every, err = strconv.ParseUint(n, 10, 64); err == nil && p.every > 0 {
			break
		}
		fallthrough
	default:
		err = fmt.Errorf("--audit %q: it is off, events, security, sampled=N or all", text)
	}
	return p, err
}

// evidence is what a run leaves in TPM and audit log. A nil one leaves nothing.
type evidence struct {
	vm      string
	measure bool
	policy  auditPolicy
	client  *trust.Client // nil: the guest has a TPM, and that is all
	tpmDir  string        // of the guest's TPM; "": it has none
}

// newEvidence begins the evidence of a run, if the flags ask for any. With tpmDir the guest gets a TPM.
func (c *runCmd) newEvidence(vm, tpmDir string) (*evidence, error) {
	e := &evidence{vm: vm, measure: c.Measure, tpmDir: tpmDir}
	var err error
	if e.policy, err = parseAudit(c.Audit); err != nil {
		return nil, err
	}
	if !e.measure && !e.policy.on {
		if tpmDir == "" {
			return nil, nil
		}
		return e, nil
	}
	state, err := trust.DefaultState()
	if err == nil {
		e.client, err = trust.Connect(state, vm, func() error { return startKeeper(state) })
	}
	if err != nil {
		return nil, fmt.Errorf("evidence of the guest: %w", err)
	}
	return e, nil
}

// lost is closed when the audit log cannot be written any more: what is audited must end then.
func (e *evidence) lost() <-chan struct{} {
	if e == nil || e.client == nil || !e.policy.on {
		return nil
	}
	return e.client.Lost()
}

var errAuditLost = errors.New("the audit log cannot be written any more, and the guest was to be audited")

// record puts a record into the audit log, if the guest is audited.
func (e *evidence) record(r auditchain.Record) error {
	if e == nil || e.client == nil || !e.policy.on {
		return nil
	}
	return e.client.Record(r)
}

// launch measures and records the guest, which has not run. It returns the digests for the guest's own TPM.
func (e *evidence) launch(verb string, items []trust.Item) ([]trust.Measured, error) {
	if e == nil {
		return nil, nil
	}
	var list []trust.Measured
	var detail string
	var err error
	switch {
	case e.measure:
		var l *trust.Launch
		if l, err = e.client.Measure(items); err == nil {
			list, detail = l.List, fmt.Sprintf("measured: hashing %v, TPM %v", l.Hashing.Round(time.Microsecond), l.TPM.Round(time.Microsecond))
		}
	case e.tpmDir != "":
		list, err = trust.Digests(items)
	}
	if err != nil {
		return nil, err
	}
	if e.policy.on {
		if err := e.record(auditchain.Record{Kind: auditchain.Launch, Verb: verb, Args: trust.ArgsDigest(list), Detail: detail}); err != nil {
			return nil, err
		}
		if err := e.client.Flush(); err != nil { // what nobody can deny any more comes first
			return nil, err
		}
	}
	return list, nil
}

// stopped records how the guest ended, and returns when that is on disk.
func (e *evidence) stopped(code int, why string) error {
	if e == nil || e.client == nil || !e.policy.on {
		return nil
	}
	err := e.record(auditchain.Record{Kind: auditchain.Stop, Verb: "end", Result: int64(code), Detail: why})
	if err == nil {
		err = e.client.Flush()
	}
	return err
}

// close ends the connection.
func (e *evidence) close() error {
	if e == nil || e.client == nil {
		return nil
	}
	return e.client.Close()
}

// event records what happens to a machine.
func (e *evidence) event(v vmm.Event) {
	kinds := map[vmm.EventKind]auditchain.Kind{
		vmm.EventFault: auditchain.Fault, vmm.EventDevice: auditchain.Fault, vmm.EventPaused: auditchain.Command, vmm.EventResumed: auditchain.Command,
	}
	if kind, ok := kinds[v.Kind]; ok {
		_ = e.record(auditchain.Record{Kind: kind, Verb: string(v.Kind), Detail: v.Text, Time: v.Time.UnixNano()}) // lost tells of its error
	}
}

// boot is one life of a machine, from one reset to the next, as evidence sees it.
type bootEvidence struct {
	e     *evidence
	items []trust.Item
	vtpm  *trust.VTPM
	once  sync.Once
}

// beginBoot opens what the machine is made of, and starts its TPM.
func (e *evidence) beginBoot(cfg vmm.Config, root string) (b *bootEvidence, err error) {
	b = &bootEvidence{e: e}
	if e == nil {
		return b, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if e.measure || e.tpmDir != "" {
		add := func(what tpm.What, path string) {
			if err == nil && path != "" {
				var it trust.Item
				if it, err = trust.OpenItem(what, path); err == nil {
					b.items = append(b.items, it)
				}
			}
		}
		add(tpm.Kernel, cfg.Kernel)
		for _, path := range cfg.Initrds {
			add(tpm.Initramfs, path)
		}
		add(tpm.Rootfs, root)
		if err != nil {
			return b, &exitError{exitInput, err}
		}
	}
	if e.tpmDir != "" {
		b.vtpm, err = trust.StartVTPM(e.tpmDir)
	}
	return b, err
}

// launch measures and records the machine, which is built and has not run.
func (b *bootEvidence) launch(m *vmm.Machine, config any) error {
	if b.e == nil {
		return nil
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	items := slices.Concat(b.items, []trust.Item{
		{What: tpm.CommandLine, Name: "cmdline", Bytes: []byte(m.Cmdline())}, {What: tpm.Config, Name: "config", Bytes: text},
	})
	list, err := b.e.launch("boot", items)
	if err == nil && b.vtpm != nil {
		err = b.vtpm.Measure(list)
	}
	return err
}

// close ends the machine's TPM. No vCPU runs any more.
func (b *bootEvidence) close() (err error) {
	b.once.Do(func() {
		trust.CloseItems(b.items)
		if b.vtpm != nil {
			err = b.vtpm.Close()
		}
	})
	return err
}

// machineConfig is what a machine's configuration is measured as: what the guest is given beside files and command line.
type machineConfig struct {
	Memory                                uint64
	CPUs                                  int
	CPU, Boot, Tables, Net, Console       string
	Disks, Publish, Shares                []string
	Transport                             int
	Heal, Balloon, RNG, Vsock, TPM, Agent bool
}

func (c *runCmd) machineConfig(cfg vmm.Config) machineConfig {
	return machineConfig{
		Memory: cfg.Memory, CPUs: cfg.CPUs, CPU: c.CPU, Boot: c.Boot, Tables: c.Tables, Net: c.Net, Console: c.ConsoleKind, Disks: c.Disk, Publish: c.Publish,
		Shares: c.Share, Transport: int(cfg.Transport), Heal: cfg.Heal, Balloon: c.Balloon, RNG: c.RNG, Vsock: c.Vsock != "", TPM: c.TPM, Agent: c.Agent,
	}
}

// maxKeeperMessage bounds what a keeper says when it is up.
const maxKeeperMessage = 4 << 10

// keeperUp is what a keeper says when it is up.
type keeperUp struct {
	Software bool   `json:"software"`
	Error    string `json:"error,omitempty"`
}

// startKeeper starts the process that has TPM and audit log, and returns when it answers.
func startKeeper(state trust.State) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe", "keeper", "--ready")
	cmd.Args[0] = "qenex"
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "QENEX_STATE="+state.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{write} // and no standard files: they would keep those of the caller open
	err = cmd.Start()
	write.Close()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(read, maxKeeperMessage))
	var up keeperUp
	if err == nil {
		err = json.Unmarshal(text, &up)
	}
	if err == nil && up.Error != "" {
		err = errors.New(up.Error)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the keeper of TPM and audit log did not start: %w", err), cmd.Wait())
	}
	if up.Software {
		warnSoftwareTPM(state)
	}
	return cmd.Process.Release()
}

func warnSoftwareTPM(state trust.State) {
	fmt.Fprintf(os.Stderr, "qenex: warning: this host has no TPM (%s): a program, swtpm, stands for it, with its state in %s. "+
		"What it measures, quotes and counts proves nothing against whoever can read or write there.\n", tpm.Device, filepath.Join(state.Dir, "tpm"))
}

// argsDigest is the digest of a command's arguments: SHA-256 of them, each with a zero byte behind it.
func argsDigest(args []string) [32]byte {
	var b []byte
	for _, a := range args {
		b = append(append(b, a...), 0)
	}
	return sha256.Sum256(b)
}

// machineEvidence begins the evidence of a machine that is registered. The state of its TPM is in its directory, or in one of its own.
func (c *runCmd) machineEvidence(reg *registered) (*evidence, error) {
	dir := ""
	switch {
	case c.TPM && reg.vm != nil:
		dir = reg.vm.Path("tpm")
	case c.TPM:
		return nil, inputError("--tpm: there is no place for the TPM's state: set QENEX_RUN to a directory of your own")
	}
	return c.newEvidence(reg.name, dir)
}

// rootPath is the file of the root disk; "": there is none.
func (p *plan) rootPath() string {
	if p.root == nil {
		return ""
	}
	return p.root.Path
}
