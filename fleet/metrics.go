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
