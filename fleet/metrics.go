package fleet

import (
	"io"
	"strconv"
	"strings"
)

// WriteMetrics writes metrics in Prometheus' text format 0.0.4, all with the label vm.
func WriteMetrics(w io.Writer, vm string, metrics []Metric) error {
	var b strings.Builder
	last := ""
	for _, m := range metrics {
		name := "qenex_" + m.Name
		if name != last {
			b.WriteString("# HELP " + name + " " + escapeHelp.Replace(m.Help) + "\n# TYPE " + name + " " + string(m.Kind) + "\n")
			last = name
		}
		b.WriteString(name + `{vm="` + escapeLabel.Replace(vm) + `"`)
		for _, l := range m.Labels {
			b.WriteString("," + l[0] + `="` + escapeLabel.Replace(l[1]) + `"`)
		}
		b.WriteString("} " + strconv.FormatFloat(m.Value, 'g', -1, 64) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// MetricsJoiner joins texts of WriteMetrics so that samples of one name stand together, as Prometheus wants them.
type MetricsJoiner struct {
	heads   []string            // # lines of a name, in the order of their first appearance
	samples map[string][]string // by heads
}

// Add adds a text.
func (j *MetricsJoiner) Add(text string) {
	if j.samples == nil {
		j.samples = map[string][]string{}
	}
	head, inHead := "", false
	for line := range strings.Lines(text) {
		switch comment := strings.HasPrefix(line, "#"); {
		case comment && inHead:
			head += line
		case comment:
			head, inHead = line, true
		default:
			if inHead && j.samples[head] == nil {
				j.heads = append(j.heads, head)
			}
			inHead = false
			j.samples[head] = append(j.samples[head], line)
		}
	}
}

// String returns them all.
func (j *MetricsJoiner) String() string {
	var b strings.Builder
	for _, head := range j.heads {
		b.WriteString(head)
		for _, line := range j.samples[head] {
			b.WriteString(line)
		}
	}
	return b.String()
}
