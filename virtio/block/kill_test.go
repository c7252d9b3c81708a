package block

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/blockdev"
	"github.com/qenex/qenex-kernel/virtio/virtiotest"
)

const (
	killEnv    = "QENEX_TEST_KILL" // path of the image: this process is the one that is killed
	killBlocks = 400
	killBlock  = 4096
)

func TestMain(m *testing.M) {
	if path := os.Getenv(killEnv); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

func killSpec(path string) blockdev.Spec {
	return blockdev.Spec{Path: path, Format: blockdev.Raw, Overlay: path + ".overlay"}
}

// writeUntilKilled writes blocks through a device and says how many it has flushed.
func writeUntilKilled(path string) {
	disk, err := blockdev.Open(killSpec(path))
	if err != nil {
		panic(err)
	}
	dev, err := New(Config{Disk: disk})
	if err != nil {
		panic(err)
	}
	d := virtiotest.New(nil, dev, 8<<20)
	send := func(parts ...[]byte) {
		if st, _, _ := result(d.Send(0, parts, 1)); st != statusOK {
			panic(st)
		}
	}
	for i := range uint64(killBlocks) {
		send(header(typeOut, i*killBlock/sector), noise(i, killBlock))
		if i%4 == 3 {
			send(header(typeFlush, 0))
			fmt.Println(i + 1)
		}
	}
	if err := unix.Pause(); err != nil {
		panic(err)
	}
}

// TestKill kills a process that serves a device: what the driver had flushed is on the disk.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	old := noise(1000, killBlocks*killBlock)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{4, 100, killBlocks} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), killEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		flushed := 0
		for lines := bufio.NewScanner(out); flushed < stop && lines.Scan(); {
			if flushed, err = strconv.Atoi(lines.Text()); err != nil {
				t.Error(err)
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.Exited() {
			t.Fatalf("the child was not killed: %v", err)
		}
		if flushed < stop {
			t.Fatalf("the child flushed %d blocks, not %d", flushed, stop)
		}
		disk, err := blockdev.Open(killSpec(path))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, killBlock)
		for i := range killBlocks {
			if err := disk.Read([][]byte{got}, int64(i)*killBlock); err != nil {
				t.Fatal(err)
			}
			fresh := bytes.Equal(got, noise(uint64(i), killBlock))
			if i < flushed && !fresh {
				t.Errorf("block %d of %d that were flushed is lost", i, flushed)
			}
			if !fresh && !bytes.Equal(got, old[i*killBlock:][:killBlock]) {
				t.Errorf("block %d is neither old nor new", i)
			}
		}
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
