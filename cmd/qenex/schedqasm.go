//go:build !kernelonly

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/scheduler/anneal"
	"github.com/qenex/qenex-kernel/scheduler/circuit"
)

type schedQASMCmd struct {
	seedFlag `embed:""`
	File     string `arg:"" name:"problem" optional:"" help:"A rudy or COO file, or a placement problem as of qenex sched plan; - is standard input. Without it: to place the guests that run on this host now."`
	Depth    int    `default:"3" placeholder:"N" help:"Layers of the circuit: more find better answers on a perfect machine (default: ${default}). As in: --depth 5"`
	Shots    int    `default:"4096" placeholder:"N" help:"With --json, how often the simulator measures (default: ${default}). As in: --shots 100000"`
	Counts   string `placeholder:"FILE" help:"Print what these measurements of the circuit found, instead of the circuit: a JSON object such as {\"0101\": 512, \"1010\": 488}, the highest qubit first. As in: --counts counts.json"`
	JSON     bool   `name:"json" help:"Print JSON: the circuit, what the simulator measures with it, and the optimum by looking at all states. As in: --json | jq -r .qasm"`
}

// Help is the text behind the flags.
func (c *schedQASMCmd) Help() string {
	return fmt.Sprintf(`At most %d variables, which are the qubits: in a placement, one for each vCPU and CPU. The angles are found on a
simulator, where a circuit of that size takes about 5 s a layer; the same problem and depth give the same circuit.

Examples:
  qenex sched qasm ring.txt --depth 2 >ring.qasm
  qenex sched qasm ring.txt --json | jq '.simulated.cut, .brute_force.cut'
  qenex sched qasm ring.txt --counts counts.json
  qenex sched qasm problem.json --json | jq .simulated.placement`, circuit.MaxQubits)
}

// found is the best state of some measurements, or of all states.
type found struct {
	Cut    *float64 `json:"cut,omitempty"`
	Energy *float64 `json:"energy,omitempty"`
	State  []int    `json:"state"` // as the file's variables have it; of a placement 0 and 1
	// Placement is the CPU of every vCPU. It is missing if the state is no placement: a vCPU is on no CPU, or on two.
	Placement map[string]int `json:"placement,omitempty"`
	Shots     int            `json:"shots,omitempty"`
	Hits      int            `json:"hits,omitempty"` // shots that found as good a state
	Mean      *float64       `json:"mean,omitempty"` // of all shots
}

func (f *found) value() float64 {
	if f.Cut != nil {
		return *f.Cut
	}
	return *f.Energy
}

// qasmReport is what qenex sched qasm --json prints.
type qasmReport struct {
	Qubits     int       `json:"qubits"`
	Depth      int       `json:"depth,omitempty"`
	Gamma      []float64 `json:"gamma,omitempty"`
	Beta       []float64 `json:"beta,omitempty"`
	Expected   *float64  `json:"expected,omitempty"` // mean of what an ideal machine measures
	Simulated  *found    `json:"simulated,omitempty"`
	Measured   *found    `json:"measured,omitempty"`
	BruteForce found     `json:"brute_force"`
	QASM       string    `json:"qasm,omitempty"`
}

// of is a state and what it is worth.
func (in *instance) of(s []int8) found {
	value := in.value(s)
	f := found{Energy: &value}
	if in.cut {
		f.Cut, f.Energy = f.Energy, nil
	}
	for _, v := range s {
		if in.vartype == anneal.Binary {
			v = (1 + v) / 2
		}
		f.State = append(f.State, int(v))
	}
	if in.problem == nil {
		return f
	}
	if cpu, err := in.encoded.Decode(s); err == nil {
		f.Placement = map[string]int{}
		for i, at := range cpu {
			f.Placement[in.problem.VCPUs[i].Name] = in.problem.Host.CPUs[at].ID
		}
	}
	return f
}

// mean turns a mean energy into what the instance is measured in.
func (in *instance) mean(energy float64) *float64 {
	if in.cut {
		zero := in.model.CutEnergy(0)
		energy = (energy - zero) / (in.model.CutEnergy(1) - zero)
	}
	return &energy
}

func (in *instance) measured(r *circuit.Result) *found {
	f := in.of(r.Spins)
	f.Shots, f.Hits, f.Mean = r.Shots, r.Hits, in.mean(r.Mean)
	return &f
}

// instance is the problem.
func (c *schedQASMCmd) instance() (in instance, err error) {
	if c.File == "" {
		ctx, stop := untilSignal()
		defer stop()
		if in.problem, err = runningGuests(ctx, time.Second); err != nil {
			return in, err
		}
		return in, in.encode()
	}
	r, first, closer, err := openProblem(c.File)
	if err != nil {
		return in, err
	}
	if strings.HasPrefix(first, "{") {
		if in.problem, err = readProblem(r); err == nil {
			err = in.encode()
		}
	} else {
		in, err = readInstance(r, first)
	}
	if err = errors.Join(err, closer()); err != nil {
		return in, inputError("%s: %w", c.File, err)
	}
	return in, nil
}

// encode makes the model of a placement.
func (in *instance) encode() (err error) {
	in.vartype = anneal.Binary
	in.model, in.encoded, err = in.problem.Model()
	return err
}

// Run prints a circuit, or what was measured.
func (c *schedQASMCmd) Run() error {
	if c.Depth < 1 || c.Depth > circuit.MaxLayers {
		return usageError("--depth %d: 1 to %d layers are possible", c.Depth, circuit.MaxLayers)
	}
	if c.Shots < 1 || c.Shots > circuit.MaxShots {
		return usageError("--shots %d: 1 to %d are possible", c.Shots, circuit.MaxShots)
	}
	in, err := c.instance()
	if err != nil {
		return err
	}
	if n := in.model.Spins(); n < 1 || n > circuit.MaxQubits {
		return inputError("the problem has %d variables: a circuit has 1 to %d qubits", n, circuit.MaxQubits)
	}
	o := circuit.Options{Layers: c.Depth}
	if c.Counts != "" {
		o = circuit.Options{Layers: 1, Evaluations: 1} // the angles do not matter any more
	}
	q, err := circuit.New(in.model, o)
	if err != nil {
		return err
	}
	best, _, err := anneal.Exact(in.model)
	if err != nil {
		return err
	}
	out := qasmReport{Qubits: q.Qubits(), BruteForce: in.of(best)}
	if c.Counts != "" {
		return c.evaluate(in, q, out)
	}
	var text strings.Builder
	if err := q.WriteQASM(&text); err != nil || !c.JSON {
		if err == nil {
			_, err = os.Stdout.WriteString(text.String())
		}
		return err
	}
	counts, err := q.Execute(c.Shots, c.Seed)
	if err != nil {
		return err
	}
	res, err := q.Evaluate(counts)
	if err != nil {
		return err
	}
	out.Gamma, out.Beta = q.Angles()
	out.Depth, out.Expected, out.Simulated, out.QASM = c.Depth, in.mean(q.Expected()), in.measured(res), text.String()
	return printJSON(out)
}

// evaluate says what hardware measured.
func (c *schedQASMCmd) evaluate(in instance, q *circuit.Circuit, out qasmReport) error {
	f, err := os.Open(c.Counts)
	if err != nil {
		return inputError("--counts: %w", err)
	}
	counts, err := q.ReadCounts(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return inputError("--counts %s: %w", c.Counts, err)
	}
	res, err := q.Evaluate(counts)
	if err != nil {
		return inputError("--counts %s: %w", c.Counts, err)
	}
	out.Measured = in.measured(res)
	if c.JSON {
		return printJSON(out)
	}
	fmt.Printf("best %s measured: %s, in %d of %d shots; their mean is %s; the optimum is %s\n",
		in.unit(), number(in.value(res.Spins)), res.Hits, res.Shots, number(*out.Measured.Mean), number(out.BruteForce.value()))
	if in.problem == nil {
		_, err = fmt.Print(in.text(res.Spins))
		return err
	}
	if out.Measured.Placement == nil {
		fmt.Println("it is no placement: a vCPU is on no CPU, or on two")
	}
	for _, name := range slices.Sorted(maps.Keys(out.Measured.Placement)) {
		fmt.Printf("%s on CPU %d\n", plain(name), out.Measured.Placement[name])
	}
	return nil
}
