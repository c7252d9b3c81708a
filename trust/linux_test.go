package trust

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/qenex/qenex-kernel/guest/artefact"
	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/linuxtest"
	"github.com/qenex/qenex-kernel/tpm"
	"github.com/qenex/qenex-kernel/vcpu/probe"
	"github.com/qenex/qenex-kernel/vmm"
)

// TestStockLinuxReadsPCRs boots Debian's unmodified kernel with a TPM, into which its launch was measured, and wants the PCRs that the guest
// reads to be those that the event log makes on the host, replayed by go-eventlog. It is the svm lane's test.
func TestStockLinuxReadsPCRs(t *testing.T) {
	if testing.Short() {
		t.Skip("booting Linux is not short")
	}
	host, err := probe.Quick(kvmtest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	if host.SoftwareKVM {
		if os.Getenv("QENEX_LANE") == "svm" {
			t.Fatal("the svm lane's KVM is a software one")
		}
		t.Skip("a stock kernel takes minutes on a software KVM: this test belongs to the svm lane (make test-svm)")
	}
	needSwtpm(t)
	kvmtest.NoLeaks(t)
	v, err := StartVTPM(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	cfg := vmm.Config{
		Kernel: linuxtest.File(t, artefact.StockKernel), Initrds: []string{linuxtest.File(t, "initramfs-busybox.cpio")}, Memory: 512 << 20, CPUs: 1, Heal: true, TPM: v,
		Cmdline: `console=ttyS0 panic=-1 pci=off quiet qenex.cmd="cd /sys/class/tpm/tpm0/pcr-sha256; for i in 8 9 12 13 14; do echo pcr $i $(cat $i); done"`,
	}
	used := map[int]bool{8: true, 9: true, 12: true, 13: false, 14: false}
	var out linuxtest.Console
	cfg.Console = &out
	kernel, initramfs := openItem(t, tpm.Kernel, cfg.Kernel), openItem(t, tpm.Initramfs, cfg.Initrds[0])
	m, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	list, err := Digests([]Item{kernel, initramfs, {What: tpm.CommandLine, Name: "cmdline", Bytes: []byte(m.Cmdline())}, {What: tpm.Config, Name: "config", Bytes: []byte("{}")}})
	if err == nil {
		err = v.Measure(list)
	}
	if err == nil {
		err = m.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	o, err := m.Wait(ctx)
	if err != nil || o.Cause != vmm.PowerOff {
		t.Fatalf("outcome %v, %v, console:\n%s", o, err, &out)
	}
	var pcrs []register.MR
	for i := range used {
		value := make([]byte, 32)
		_, text, ok := strings.Cut(out.String(), fmt.Sprintf("pcr %d ", i))
		if n, err := hex.Decode(value, []byte(text[:min(64, len(text))])); !ok || err != nil || n != 32 {
			t.Fatalf("the guest does not read PCR %d; it says:\n%s", i, &out)
		}
		if used[i] == bytes.Equal(value, make([]byte, 32)) {
			t.Errorf("PCR %d is %x", i, value)
		}
		pcrs = append(pcrs, register.FakeMR{Index: i, Digest: value, DigestAlg: crypto.SHA256})
	}
	events, err := tcg.ParseAndReplay(v.Log(), pcrs, tcg.ParseOpts{})
	if err != nil || len(events) != len(list) {
		t.Errorf("the event log does not make the PCRs that the guest reads: %d events, %v\n%s", len(events), err, &out)
	}
	t.Logf("%s", &out)
}
