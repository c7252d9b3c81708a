package simulate

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestCompare prints the tables of BENCHMARKS.md: QENEX_SIMULATE is the sizes to run, QENEX_MIXES the mixes
// (all), QENEX_SEEDS how many seeds (5), QENEX_FIRST from which on; with QENEX_TRAINING they are training seeds, otherwise held-out ones.
//
//	QENEX_SIMULATE=small,medium,large go test -run TestCompare -v -timeout 1h ./scheduler/simulate
func TestCompare(t *testing.T) {
	sizes := os.Getenv("QENEX_SIMULATE")
	if sizes == "" {
		t.Skip("QENEX_SIMULATE is not set")
	}
	seeds, seed := 5, HeldOut
	if n, err := strconv.Atoi(os.Getenv("QENEX_SEEDS")); err == nil {
		seeds = n
	}
	first, _ := strconv.Atoi(os.Getenv("QENEX_FIRST"))
	if os.Getenv("QENEX_TRAINING") != "" {
		seed = Training
	}
	mixes := Mixes
	if m := os.Getenv("QENEX_MIXES"); m != "" {
		mixes = strings.Split(m, ",")
	}
	for _, size := range strings.Split(sizes, ",") {
		top, err := HostOf(size)
		if err != nil {
			t.Fatal(err)
		}
		for _, mix := range mixes {
			var runs [][]*Result
			for i := range seeds {
				tr, err := Generate(mix, size, seed(first+i))
				if err != nil {
					t.Fatal(err)
				}
				cal := DefaultCalibration()
				rs, err := Compare(top, tr, Policies(uint64(i)), cal)
				if err != nil {
					t.Fatal(err)
				}
				runs = append(runs, rs)
			}
			fmt.Printf("\n%s, %s, %d seeds\n\n%s", mix, size, seeds, Table(Summarize(runs)))
		}
	}
}
