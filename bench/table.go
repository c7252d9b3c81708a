package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Table is the result of one run of the bench.
type Table struct {
	Host Host  `json:"host"`
	Rows []Row `json:"rows"`
}

// Host is where and when the table was made.
type Host struct {
	Time        time.Time         `json:"time"`
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	Kernel      string            `json:"kernel"`
	SoftwareKVM bool              `json:"software_kvm"`
	Versions    map[string]string `json:"versions"` // by program: what it says of itself
	LoadBefore  string            `json:"load_before"`
	LoadAfter   string            `json:"load_after"` // averages over 1, 5 and 15 minutes
}

// Row is one quantity, measured for every peer.
type Row struct {
	Experiment string `json:"experiment"`
	Title      string `json:"title"`
	Unit       string `json:"unit"`
	More       bool   `json:"more_is_better"`
	Goal       string `json:"goal,omitempty"`
	Cells      []Cell `json:"cells"`
}

// Cell is one peer's result: numbers, or why there are none.
type Cell struct {
	Peer   string    `json:"peer"`
	Values []float64 `json:"values,omitempty"` // in the order measured
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Ratio  float64   `json:"qenex_ratio,omitempty"` // median of qenex by this median
	Why    string    `json:"why,omitempty"`         // what went wrong, if something did
}

func cell(name string, values []float64, why string) Cell {
	c := Cell{Peer: name, Values: values, Why: why}
	if len(values) == 0 {
		return c
	}
	s := slices.Sorted(slices.Values(values))
	c.Min, c.Max = s[0], s[len(s)-1]
	c.Median = (s[(len(s)-1)/2] + s[len(s)/2]) / 2
	return c
}

// compare fills in the ratios, where both numbers are positive.
func (r *Row) compare() {
	i := slices.IndexFunc(r.Cells, func(c Cell) bool { return c.Peer == qenexName })
	if i < 0 || len(r.Cells[i].Values) == 0 {
		return
	}
	for j := range r.Cells {
		if c := &r.Cells[j]; j != i && c.Median > 0 && r.Cells[i].Median > 0 {
			c.Ratio = r.Cells[i].Median / c.Median
		}
	}
}

// WriteJSON writes the table as one indented JSON object.
func (t *Table) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(t)
}

// WriteMarkdown writes the table for people: "median (min to max)", the number of runs, and the ratios.
func (t *Table) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	h := t.Host
	fmt.Fprintf(&b, "Host: %s, %d CPUs, Linux %s, %s. ", h.CPU, h.CPUs, h.Kernel, h.Time.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(&b, "Load average %s before, %s after.\n", h.LoadBefore, h.LoadAfter)
	if h.SoftwareKVM {
		b.WriteString("KVM: software. Guest code at CPL 0, kernel code that is, is emulated here at 0.5 to 1 us an instruction;\n" +
			"absolute times say little about hosts with VMX or SVM, ratios of one row say more.\n")
	} else {
		b.WriteString("KVM: guest kernel code runs on the processor (VMX, SVM, or an emulation of them).\n")
	}
	for _, name := range PeerNames {
		if v := h.Versions[name]; v != "" {
			fmt.Fprintf(&b, "%s: %s.\n", name, v)
		}
	}
	for _, r := range t.Rows {
		better := "less is better"
		if r.More {
			better = "more is better"
		}
		fmt.Fprintf(&b, "\n**%s** (%s, %s", r.Title, r.Unit, better)
		if r.Goal != "" {
			fmt.Fprintf(&b, "; goal: %s", r.Goal)
		}
		b.WriteString(")\n\n| peer | median | min | max | runs | qenex / peer |\n|---|---|---|---|---|---|\n")
		for _, c := range r.Cells {
			b.WriteString(c.markdown())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Cell) markdown() string {
	if len(c.Values) == 0 {
		return fmt.Sprintf("| %s | %s | | | 0 | |\n", c.Peer, c.Why)
	}
	ratio, note := "", ""
	if c.Ratio != 0 {
		ratio = fmt.Sprintf("%.3f", c.Ratio)
	}
	if c.Why != "" {
		note = ", then: " + c.Why
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %d%s | %s |\n", c.Peer, number(c.Median), number(c.Min), number(c.Max), len(c.Values), note, ratio)
}

// number writes v with three digits or more that count.
func number(v float64) string {
	switch a := max(v, -v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
