package doctor

import (
	"fmt"
	"strings"
)

// scarceKiB is so little memory that a guest of the smallest useful size hardly fits.
const scarceKiB = 64 << 10

// conclude draws the verdict from what is in the report. guestErr says why no small guest ran,
// measureErr why not everything could be measured.
func (r *Report) conclude(guestErr, measureErr error) {
	v := Verdict{Reasons: []string{}, Advice: []string{}}
	if !r.KVM.Usable {
		v.Reasons = append(v.Reasons, r.KVM.Error)
	} else {
		if guestErr != nil {
			v.Reasons = append(v.Reasons, "a small guest does not run: "+guestErr.Error())
		}
		v.Reasons = append(v.Reasons, lacking(r.Capabilities)...)
	}
	v.Reasons = append(v.Reasons, lacking(r.Host.Features)...)
	v.CanRun = len(v.Reasons) == 0
	if r.KVM.Fix != "" {
		v.Advice = append(v.Advice, r.KVM.Fix)
	}
	if v.CanRun {
		r.RecommendedKernel = KernelStock
		if r.emulated() {
			r.RecommendedKernel = KernelLean
			v.Advice = append(v.Advice, fmt.Sprintf("this KVM emulates guest kernel code at %.0f ns a loop step: use the lean kernel; programs in guests run at full speed", r.Measured.CPL0LoopNS))
		}
		if measureErr != nil {
			v.Advice = append(v.Advice, "figures are incomplete: "+measureErr.Error())
		} else if r.Measured != nil {
			if gaps := r.Measured.Missing(); len(gaps) > 0 {
				v.Advice = append(v.Advice, fmt.Sprintf("%d of %d tried instructions are missing or wrong at CPL 0: keep instruction completion on", len(gaps), len(r.Measured.Instructions)))
			}
		}
	}
	if a := r.Host.MemoryAvailableKiB; a > 0 && a < scarceKiB {
		v.Advice = append(v.Advice, fmt.Sprintf("only %d MiB of memory are available: free some", a/1024))
	}
	r.Verdict = v
}

// lacking names the required checks that failed.
func lacking(checks []Check) []string {
	var reasons []string
	for _, c := range checks {
		if c.Needed == Required && !c.Found {
			reasons = append(reasons, strings.TrimSpace(fmt.Sprintf("%s is missing (%s): %s. %s", c.Name, c.Cost, c.Fix, c.Detail)))
		}
	}
	return reasons
}
