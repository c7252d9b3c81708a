package trust

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/qenex/qenex-kernel/tpm"
)

// VTPM is a guest's TPM: a swtpm of its own, whose life is that of the guest between two resets.
type VTPM struct {
	t *tpm.TPM
	m *tpm.Measurements
	d string
}

// StartVTPM starts a TPM with its state in dir, as after a reset of the guest's machine.
func StartVTPM(dir string) (*VTPM, error) {
	t, err := tpm.StartSoftware(dir)
	if err != nil {
		return nil, err
	}
	m, err := t.Measure()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &VTPM{t, m, dir}, nil
}

// Command implements crb.TPM.
func (v *VTPM) Command(cmd []byte) ([]byte, error) { return v.t.Command(cmd) }

// Measure puts digests into the PCRs, before the guest runs, and the event log into the file eventlog beside the state.
func (v *VTPM) Measure(list []Measured) error {
	for _, m := range list {
		if err := v.m.Digest(m.What, m.Name, m.Digest); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(v.d, eventFile), v.m.Log(), 0o600)
}

// Log returns the event log.
func (v *VTPM) Log() []byte { return v.m.Log() }

// Close ends the TPM. What the guest keeps in it stays in its directory.
func (v *VTPM) Close() error { return v.t.Close() }
