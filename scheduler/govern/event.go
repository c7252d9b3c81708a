package govern

import (
	"time"

	"github.com/qenex/qenex-kernel/scheduler/apply"
	"github.com/qenex/qenex-kernel/scheduler/plan"
)

// Kind says what an event tells.
type Kind string

// The kinds of events.
const (
	Observed   Kind = "observed"    // an epoch has passed: Items, Score, Epoch, Share
	Planned    Kind = "planned"     // a plan was made: Plan. It is applied only if it promises enough
	Applied    Kind = "applied"     // Plan was applied: Report
	Measured   Kind = "measured"    // an epoch under a plan on trial has passed: Score, Baseline, Noise
	Kept       Kind = "kept"        // the plan has passed
	Reverted   Kind = "reverted"    // all is as before: Restored, Reason
	StoodAside Kind = "stood aside" // nothing is done for now: Reason. Told when the reason changes
	Failed     Kind = "failed"      // something could not be found out: Reason. All goes on
)

// Event is what a Governor tells. Which fields are set depends on its kind.
type Event struct {
	Kind     Kind            `json:"event"`
	At       time.Time       `json:"at"`
	Number   int             `json:"number"`             // of the epoch
	Epoch    time.Duration   `json:"epoch"`              // its length in nanoseconds, longer than asked for where planning would cost too much
	Share    float64         `json:"share"`              // of one CPU that planning used, of late
	Items    []Item          `json:"items,omitempty"`    // what was seen
	Score    float64         `json:"score"`              // of the epoch, see Score; 0 is best
	Baseline float64         `json:"baseline"`           // score without a plan, on average
	Noise    float64         `json:"noise"`              // what scores differ by without a reason
	Plan     *Proposal       `json:"plan,omitempty"`     //
	Report   *apply.Report   `json:"report,omitempty"`   //
	Restored *apply.Restored `json:"restored,omitempty"` //
	Reason   string          `json:"reason,omitempty"`   //
}

// Item is one vCPU or native guest in an epoch.
type Item struct {
	Name    string  `json:"name"`
	CPU     int     `json:"cpu"`     // ID, where it was last
	Run     float64 `json:"run"`     // CPUs' worth of time that it ran
	Wait    float64 `json:"wait"`    // and that it waited for a CPU
	Load    float64 `json:"load"`    // predicted for the next epoch, in CPUs
	Wakeups float64 `json:"wakeups"` // a second
	Latency bool    `json:"latency,omitempty"`
	Gang    int     `json:"gang,omitempty"`
	Pin     []int   `json:"pin,omitempty"` // by its user
}

// Proposal is a plan and what it promises, in units of plan's cost.
type Proposal struct {
	Names    []string       `json:"names"`    // of items
	Settings []plan.Setting `json:"settings"` // one for each
	Now      plan.Cost      `json:"now"`      // cost of the present placement
	Then     plan.Cost      `json:"then"`     // of the plan, with the migrations to it
	Gain     float64        `json:"gain"`     // their difference
	Method   string         `json:"method"`
	Elapsed  time.Duration  `json:"elapsed"` // of planning, in nanoseconds
}
