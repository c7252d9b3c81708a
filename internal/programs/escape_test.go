package programs

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/internal/cc"
)

// TestEscape gives a guest a root of its own and has it try everything to reach what is outside.
func TestEscape(t *testing.T) {
	g := onlyQenex(t)
	dir := t.TempDir()
	root, shared := filepath.Join(dir, "root"), filepath.Join(dir, "shared")
	secret, secretText := filepath.Join(dir, "secret"), "the-text-that-must-not-get-in"
	for _, d := range []string{root, root + "/tmp", root + "/mnt", root + "/proc", shared} {
		mustDo(t, os.Mkdir(d, 0o755))
	}
	program, err := os.ReadFile(needC(t, "escape", cc.Static))
	mustDo(t, err)
	mustDo(t, os.WriteFile(root+"/escape", program, 0o755))
	mustDo(t, os.WriteFile(root+"/file", []byte("as it was"), 0o644))
	mustDo(t, os.WriteFile(shared+"/file", []byte("as it was"), 0o644))
	mustDo(t, os.WriteFile(secret, []byte(secretText), 0o644))
	mustDo(t, os.Symlink(secret, root+"/link-out"))
	mustDo(t, os.Symlink("../secret", root+"/link-up"))
	mustDo(t, os.Symlink("/", root+"/link-root"))

	// Open and inheritable in QENEX when it starts: the secret's directory and the secret.
	open, err := os.Open(dir)
	mustDo(t, err)
	defer open.Close()
	file, err := os.OpenFile(secret, os.O_RDWR, 0)
	mustDo(t, err)
	defer file.Close()
	var connected []string
	abstract := fmt.Sprintf("qenex-escape-%d", os.Getpid())
	for _, address := range []struct{ network, name string }{{"unix", dir + "/s"}, {"unix", "@" + abstract}, {"tcp", "127.0.0.1:0"}} {
		l, err := net.Listen(address.network, address.name)
		mustDo(t, err)
		defer l.Close()
		connected = append(connected, l.Addr().String())
	}
	_, port, err := net.SplitHostPort(connected[2])
	mustDo(t, err)
	var stat unix.Stat_t
	mustDo(t, unix.Stat("/", &stat))
	host, err := os.Hostname()
	mustDo(t, err)
	before := listing(t, dir)

	r := run(t, g, Program{
		Args:  []string{"/escape", secret, secretText, dir + "/s", abstract, port, fmt.Sprint(os.Getpid()), fmt.Sprint(stat.Dev)},
		Flags: []string{"--rootfs", root, "--mount", shared + ":/mnt:ro"},
		Files: []*os.File{open, file},
	})
	contained(t, "escape", r)
	tricks := 0
	if _, err := fmt.Sscanf(r.Stdout, "%d tricks\n", &tricks); err != nil || r.Code != 0 {
		t.Errorf("%v", r)
	}
	if tricks < 500 {
		t.Errorf("only %d tricks were tried", tricks)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the host's files were changed\nbefore: %s\nafter: %s", before, after)
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("the host's name was %q and is %q", host, now)
	}
	t.Logf("%d tricks", tricks)
}

// TestOneSeesNotTheOther holds that guests have processes, abstract sockets and shared memory of their own.
func TestOneSeesNotTheOther(t *testing.T) {
	g := onlyQenex(t)
	other := startWitness(t, g)
	r := run(t, g, Program{Args: []string{"/bin/sh", "-c", "ls /proc | grep -c '^[0-9]*$'; kill -9 -1; echo still here; ls /dev/shm"}})
	contained(t, "sh", r)
	if strings.Contains(r.Stdout, "hostile") {
		t.Errorf("one guest sees another: %v", r)
	}
	other.check(t)
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listing returns the names, modes and contents of all files below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, path := range files(t, dir) {
		s, err := os.Lstat(path)
		mustDo(t, err)
		fmt.Fprintf(&b, "%s %v", path, s.Mode())
		if s.Mode().IsRegular() && s.Size() < 1000 {
			text, err := os.ReadFile(path)
			mustDo(t, err)
			fmt.Fprintf(&b, " %q", text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
