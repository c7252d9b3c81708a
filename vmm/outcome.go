package vmm

import "fmt"

// Cause says why a machine ended.
type Cause int

// Causes.
const (
	PowerOff    Cause = iota + 1 // the guest switched itself off
	Reboot                       // the guest asked for a reset
	Panic                        // the guest's kernel panicked
	TripleFault                  // the guest faulted while handling a double fault
	GuestFault                   // a vCPU cannot go on; Outcome.Err says why
	Ended                        // somebody called Stop
)

var causeNames = map[Cause]string{
	PowerOff:    "power-off",
	Reboot:      "reboot",
	Panic:       "panic",
	TripleFault: "triple-fault",
	GuestFault:  "guest-fault",
	Ended:       "stopped",
}

func (c Cause) String() string { return causeNames[c] }

// Outcome is how a machine ended.
type Outcome struct {
	Cause  Cause
	Detail string // for people; may be empty
	Err    error  // TripleFault and GuestFault: a *vcpu.Fault
}

func (o Outcome) String() string {
	if o.Detail == "" {
		return o.Cause.String()
	}
	return fmt.Sprintf("%v: %s", o.Cause, o.Detail)
}
