package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/qenex/qenex-kernel/tpm"
	"github.com/qenex/qenex-kernel/trust"
)

type attestCmd struct {
	Quote  attestQuoteCmd  `cmd:"" help:"Print evidence, signed by the TPM, of what was measured and recorded."`
	Verify attestVerifyCmd `cmd:"" help:"Check evidence of another host."`
	Policy attestPolicyCmd `cmd:"" help:"Print a policy that this host meets now."`
}

// nonce is a verifier's, in hexadecimal.
type nonce string

func (n nonce) bytes() ([]byte, error) {
	b, err := hex.DecodeString(string(n))
	if err != nil || len(b) < 8 || len(b) > 64 {
		return nil, usageError("--nonce: give 8 to 64 bytes in hexadecimal, new ones for each quote, as of: openssl rand -hex 16")
	}
	return b, nil
}

// keeperClient reaches the keeper, or starts one.
func keeperClient() (trust.State, *trust.Client, error) {
	state, err := trust.DefaultState()
	if err != nil {
		return state, nil, err
	}
	c, err := trust.Connect(state, "", func() error { return startKeeper(state) })
	return state, c, err
}

type attestQuoteCmd struct {
	Nonce nonce `required:"" placeholder:"HEX" help:"Bytes that the verifier has just made up."`
}

// Run prints evidence.
func (c *attestQuoteCmd) Run() error {
	n, err := c.Nonce.bytes()
	if err != nil {
		return err
	}
	_, client, err := keeperClient()
	if err != nil {
		return err
	}
	e, err := client.Quote(n)
	if err = errors.Join(err, client.Close()); err != nil {
		return err
	}
	return printLine(os.Stdout, e)
}

type attestVerifyCmd struct {
	Policy   string `required:"" placeholder:"FILE" help:"What the host must be, as qenex attest policy printed it there, once."`
	Nonce    nonce  `required:"" placeholder:"HEX" help:"What the host was given."`
	Evidence string `arg:"" placeholder:"FILE" help:"What qenex attest quote printed there."`
	JSON     bool   `name:"json" help:"Print what the evidence says as JSON."`
}

// Help is the text behind the flags.
func (c *attestVerifyCmd) Help() string {
	return `The policy's golden values are digests; what it does not name may be anything. A command that refuses the evidence exits with code 1 and says
why: key, signature, quote, nonce, event log, value, clock, or what is wrong with the audit log's checkpoint.

Example: N=$(openssl rand -hex 16); ssh host qenex attest quote --nonce $N >e.json && qenex attest verify --policy host.json --nonce $N e.json`
}

// Run checks evidence.
func (c *attestVerifyCmd) Run() error {
	n, err := c.Nonce.bytes()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.Policy)
	if err != nil {
		return inputError("%w", err)
	}
	policy, err := trust.ParsePolicy(text)
	if err != nil {
		return inputError("%w", err)
	}
	if text, err = os.ReadFile(c.Evidence); err != nil {
		return inputError("%w", err)
	}
	var e tpm.Evidence
	if err := json.Unmarshal(text, &e); err != nil {
		return inputError("%s is not evidence: %w", c.Evidence, err)
	}
	v, err := trust.Verify(&e, n, policy)
	if err != nil {
		return err
	}
	if c.JSON {
		return printLine(os.Stdout, v)
	}
	for _, m := range v.Measured {
		fmt.Printf("%-10s %s  %q\n", m.What, m.Digest, m.Name)
	}
	fmt.Printf("the evidence is good: %d measurements, %d audit records, clock %d resets and %d ms\n", len(v.Measured), v.Records, v.Clock.Resets, v.Clock.Milliseconds)
	return nil
}

type attestPolicyCmd struct{}

// Run prints a policy.
func (c *attestPolicyCmd) Run() error {
	state, client, err := keeperClient()
	if err != nil {
		return err
	}
	public, err := state.Public()
	var p trust.Policy
	if err == nil {
		p, err = trust.PolicyOf(client, public)
	}
	if err = errors.Join(err, client.Close()); err != nil {
		return err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err == nil {
		_, err = os.Stdout.Write(append(b, '\n'))
	}
	return err
}
