package mix

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qenex/qenex-kernel/internal/kvmtest"
	"github.com/qenex/qenex-kernel/internal/programs"
)

// The campaign: go test -run Campaign ./scheduler/mix -args -mixes 'gangs pairs batch servers all' -rounds 5
var (
	mixes    = flag.String("mixes", "", "mixes that TestCampaign measures, separated by blanks; none: it is skipped")
	policies = flag.String("policies", "", "policies that it compares; none: all")
	rounds   = flag.Int("rounds", 1, "how often each")
	length   = flag.Duration("length", 3*time.Second, "how long each time")
	results  = flag.String("results", "", "JSON lines of results: what is measured is added, and the table is of all")
)

// loadMode is the argument with which the test binary is the program in a guest.
const loadMode = "mix-load"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == loadMode {
		os.Exit(Load(os.Args[2:]))
	}
	os.Exit(m.Run())
}

var qenex = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("QENEX_BIN"); path != "" {
		return filepath.Abs(path)
	}
	return programs.Go(context.Background(), "./cmd/qenex")
})

func ours(t *testing.T) Programs {
	t.Helper()
	kvmtest.NoLeaks(t)
	kvmtest.Open(t)
	q, err := qenex()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Programs{Qenex: q, Load: []string{self, loadMode}}
}

func TestCampaign(t *testing.T) {
	if *mixes == "" {
		t.Skip("a campaign takes minutes: -args -mixes 'gangs pairs batch servers all'")
	}
	p := ours(t)
	chosen := Policies(1)
	if *policies != "" {
		chosen = nil
		for _, name := range strings.Fields(*policies) {
			policy, err := PolicyNamed(name, 1)
			if err != nil {
				t.Fatal(err)
			}
			chosen = append(chosen, policy)
		}
	}
	all := earlier(t)
	for _, name := range strings.Fields(*mixes) {
		m, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		err = Compare(t.Context(), m, p, chosen, *length, *rounds, func(r *Result) {
			all = append(all, r)
			keep(t, r)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Markdown(os.Stdout, Rows(all)); err != nil {
		t.Fatal(err)
	}
}

func earlier(t *testing.T) (all []*Result) {
	if *results == "" {
		return nil
	}
	f, err := os.Open(*results)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		r := &Result{}
		if err := d.Decode(r); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
}

func keep(t *testing.T, r *Result) {
	if *results == "" {
		return
	}
	f, err := os.OpenFile(*results, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.NewEncoder(f).Encode(r), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestLive runs small mixes with every kind of guest under every policy that needs nothing that this user lacks.
func TestLive(t *testing.T) {
	p := ours(t)
	for _, m := range []Mix{Make("spinning", 1, 1, 0, 0), Make("waking", 0, 0, 2, 2)} {
		for _, name := range []string{"kernel", "balance", "planner"} {
			policy, err := PolicyNamed(name, 1)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Once(t.Context(), m, p, policy, 300*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []struct {
				kind Kind
				is   float64
			}{{Lock, r.Locks}, {Lock, r.LockP99}, {Ping, r.Trips}, {Ping, r.PingP99}, {Server, r.WakeP99}, {Hog, r.HogUnits}} {
				if has := strings.Contains(fmt.Sprint(m.Guests), string(want.kind)); has != (want.is > 0) {
					t.Errorf("%s, %s: figure %d, of %s, is %v", m.Name, name, i, want.kind, want.is)
				}
			}
			if r.Fairness <= 0 || r.Fairness > 1 || r.Busy <= 0 || r.PolicyCPU < 0 {
				t.Errorf("%s, %s: %+v", m.Name, name, r)
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(shared(), "qenex-mix-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestSlots needs what only root has on a host with cgroups of version 1.
func TestSlots(t *testing.T) {
	p := ours(t)
	if _, err := os.Stat(filepath.Join(cpuGroups, "cgroup.procs")); err != nil || os.Geteuid() != 0 {
		t.Skip("NOT TESTED: no cpu controller of cgroup version 1, or not root")
	}
	if _, err := Once(t.Context(), Make("turns", 1, 0, 0, 2), p, Slots{Length: 20 * time.Millisecond}, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(cpuGroups, "qenex-mix-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestStartEndsWithContext(t *testing.T) {
	p := ours(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := Start(ctx, Make("two", 0, 0, 0, 2), p, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("enough"))
	if _, err := r.Wait(); err == nil {
		t.Error("killed guests reported")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	kvmtest.NoLeaks(t)
	m := Make("pair", 0, 1, 0, 0)
	for want, p := range map[string]Programs{
		"no such file":  {Qenex: "/no/such/qenex", Load: []string{"load"}},
		"ended at once": {Qenex: "/bin/false", Load: []string{"load"}},
	} {
		if _, err := Start(t.Context(), m, p, time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, want %q", err, want)
		}
	}
	if _, err := Start(t.Context(), m, Programs{}, 0); err == nil {
		t.Error("a length of 0")
	}
}
