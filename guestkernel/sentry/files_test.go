package sentry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file in a test's directory.
func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// contents reads a file of the host, or says that it is missing.
func contents(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return "missing"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bindTools mounts what dynamic programs of the host need into a root that has nothing.
func bindTools() []Mount {
	var m []Mount
	for _, d := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(d); err == nil {
			m = append(m, Mount{Type: MountBind, Source: d, Target: d, ReadOnly: true})
		}
	}
	return m
}

// rootSpec runs a script in root with the host's tools.
func rootSpec(root, script string) Spec {
	s := shell(script)
	s.Root, s.Mounts = root, bindTools()
	return s
}

func TestRootOverlay(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/data/old", "old\n", 0o644)
	spec := rootSpec(root, "cat /data/old && echo new >/data/old && echo more >/data/more && rm -r /data/sub && ls /data && cat /data/old /data/more && mkdir /made && ls -d /made")
	write(t, root+"/data/sub/x", "", 0o644)
	want(t, spec, "", result{stdout: "old\nmore\nold\nnew\nmore\n/made\n"})
	for name, text := range map[string]string{"data/old": "old\n", "data/more": "missing", "data/sub/x": "", "made": "missing"} {
		if got := contents(t, filepath.Join(root, name)); got != text {
			t.Errorf("%s on the host is %q, want %q", name, got, text)
		}
	}
	for _, d := range []string{"proc", "tmp", "dev", "usr"} {
		if _, err := os.Stat(filepath.Join(root, d)); err == nil {
			t.Errorf("the mount point /%s was made on the host", d)
		}
	}
}

func TestRootWritable(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/data/old", "old\n", 0o644)
	write(t, root+"/data/gone", "x", 0o644)
	spec := rootSpec(root, "echo new >>/data/old; rm /data/gone; mkdir /data/d; mv /data/old /data/d/moved; ln -s moved /data/d/link; cat /data/d/link; chmod 600 /data/d/moved")
	spec.RootWritable = true
	want(t, spec, "", result{stdout: "old\nnew\n"})
	for name, text := range map[string]string{"data/d/moved": "old\nnew\n", "data/d/link": "old\nnew\n", "data/gone": "missing", "data/old": "missing"} {
		if got := contents(t, filepath.Join(root, name)); got != text {
			t.Errorf("%s on the host is %q, want %q", name, got, text)
		}
	}
	if st, err := os.Stat(root + "/data/d/moved"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestRootReadonly(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/data/old", "old\n", 0o666)
	for _, d := range []string{"proc", "sys", "dev", "tmp", "bin", "usr", "lib", "lib64"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spec := rootSpec(root, "for c in 'echo x >/data/old' 'touch /new' 'rm /data/old' 'mkdir /d' 'chmod 0 /data/old'; do eval \"$c\" 2>/dev/null && echo \"$c worked\"; done; cat /data/old; echo t >/tmp/t && cat /tmp/t")
	spec.RootReadonly = true
	want(t, spec, "", result{stdout: "old\nt\n"})
	if got := contents(t, root+"/data/old"); got != "old\n" {
		t.Errorf("the host's file is %q", got)
	}
}

func TestBindMounts(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/rw/a", "a\n", 0o644)
	write(t, dir+"/ro/b", "b\n", 0o644)
	write(t, dir+"/file", "file\n", 0o644)
	spec := shell("cat /m/rw/a /m/ro/b /etc/given; echo changed >/m/rw/a; echo new >/m/rw/n; (echo x >/m/ro/b) 2>/dev/null || echo refused; echo more >>/etc/given; rm /m/ro/b 2>/dev/null || echo refused")
	spec.Mounts = []Mount{
		{Type: MountBind, Source: dir + "/rw", Target: "/m/rw"},
		{Type: MountBind, Source: dir + "/ro", Target: "/m/ro", ReadOnly: true},
		{Type: MountBind, Source: dir + "/file", Target: "/etc/given"},
	}
	want(t, spec, "", result{stdout: "a\nb\nfile\nrefused\nrefused\n"})
	for name, text := range map[string]string{"rw/a": "changed\n", "rw/n": "new\n", "ro/b": "b\n", "file": "file\nmore\n"} {
		if got := contents(t, filepath.Join(dir, name)); got != text {
			t.Errorf("%s on the host is %q, want %q", name, got, text)
		}
	}
	if _, err := os.Stat("/m"); err == nil {
		t.Error("the mount point was made on the host")
	}
}

func TestTmpfsAndPaths(t *testing.T) {
	spec := shell("echo x >/scratch/a; cat /scratch/a; stat -c %a /scratch; ls /etc/ssl | wc -l; (echo >/usr/x) 2>/dev/null || echo sealed; cat /etc/passwd | wc -c; (head -c 200000 /dev/zero >/small/x) 2>/dev/null || echo full")
	spec.Mounts = []Mount{{Type: MountTmpfs, Target: "/scratch", Options: []string{"mode=0711"}}, {Type: MountTmpfs, Target: "/small", Options: []string{"size=65536"}}}
	spec.MaskedPaths = []string{"/etc/ssl", "/etc/passwd", "/no/such/path"}
	spec.ReadonlyPaths = []string{"/usr", "/no/such/path"}
	want(t, spec, "", result{stdout: "x\n711\n0\nsealed\n0\nfull\n"})
}

func TestDevicesAndProc(t *testing.T) {
	spec := shell(`for d in null zero full random urandom tty ptmx pts shm; do test -e /dev/$d || echo no $d; done
echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; (echo x >/dev/full) 2>/dev/null || echo full
test -e /dev/kvm && echo kvm; test -e /dev/sda && echo sda
readlink /proc/self/exe | sed 's,.*/,,'; cd /usr/lib; readlink /proc/self/cwd; echo $$; ls -d /proc/[0-9]* | head -1; test -d /sys/devices && echo sys`)
	got := run(t, spec, "")
	if got != (result{stdout: "3\n3\nfull\nreadlink\n/usr/lib\n1\n/proc/1\nsys\n"}) {
		t.Fatalf("%+v", got)
	}
}

// TestNoEscape tries to reach files outside the root and the mounts.
func TestNoEscape(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", "the secret\n", 0o644)
	root := t.TempDir()
	write(t, root+"/inside", "inside\n", 0o644)
	for link, target := range map[string]string{
		"abs": outside + "/secret", "rel": "../../../../../../.." + outside + "/secret", "dir": outside, "up": "../..", "fd": "/proc/self/fd", "root": "/proc/1/root",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	script := `
try() { line=; if [ -f "$1" ]; then { read line <"$1"; } 2>/dev/null; fi; if [ "$line" = 'the secret' ]; then echo "escaped by $1"; fi; }
try abs; try rel; try dir/secret; try up` + outside + `/secret; try root` + outside + `/secret
try ` + outside + `/secret; try ../../../../..` + outside + `/secret; try /proc/1/root` + outside + `/secret; try /proc/1/cwd/../..` + outside + `/secret
for f in /proc/*/fd/* /proc/*/root /proc/*/cwd /proc/self/task/*/fd/*; do try "$f"; try "$f` + outside + `/secret"; try "$f/../` + outside + `/secret"; done
try /dev/fd/3; try /proc/self/map_files
mkdir -p /x && cd /x && mv /x /y && try ../../..` + outside + `/secret
ln -s ` + outside + ` /l && try /l/secret; ln ` + outside + `/secret /hard 2>/dev/null && echo linked
chroot /proc/1/root cat ` + outside + `/secret 2>/dev/null | grep -q secret && echo chroot
mkdir /c; cp /inside /c; chroot /c /bin/true 2>/dev/null
mount -t proc p /x 2>/dev/null; umount /proc 2>/dev/null; try /proc/1/root` + outside + `/secret; try /proc/self/root` + outside + `/secret
cat /inside; echo tried`
	for _, c := range []struct {
		name     string
		caps     *Capabilities
		writable bool
	}{{"container", nil, false}, {"all capabilities", &Capabilities{^uint64(0), ^uint64(0), ^uint64(0), 0}, false}, {"writable", nil, true}} {
		t.Run(c.name, func(t *testing.T) {
			spec := rootSpec(root, script)
			spec.Dir, spec.Capabilities, spec.RootWritable = "/", c.caps, c.writable
			got := run(t, spec, "")
			if got.stdout != "inside\ntried\n" {
				t.Fatalf("%+v", got)
			}
		})
	}
	if got := contents(t, outside+"/secret"); got != "the secret\n" {
		t.Fatalf("the file outside is %q", got)
	}
}

// TestHostKernelFilesStayHidden runs with the host's root and all capabilities: even without its own /proc over it,
// the host's must not open.
func TestHostKernelFilesStayHidden(t *testing.T) {
	version := contents(t, "/proc/version")
	spec := shell("umount /tmp; umount /dev/pts; umount /dev/shm; umount /dev; umount /sys; umount /proc; test -e /proc/self && ls -la /proc/1/fd /proc/self >/dev/null; cat /proc/version /proc/self/status; head -c 1 /proc/1/mem; ls /sys/kernel >/dev/null; cat /sys/kernel/mm/transparent_hugepage/enabled; head -c 1 /dev/kmsg; echo end")
	all := ^uint64(0)
	spec.Capabilities = &Capabilities{all, all, all, 0}
	if got := run(t, spec, ""); got.stdout != "end\n" || version == "" {
		t.Fatalf("%+v", got)
	}
}

// TestOrdinaryTools uses files in as many ways as common tools do, on every kind of root and mount: each way is system calls of the host
// process, and one that its filter does not know ends it.
func TestOrdinaryTools(t *testing.T) {
	const script = `cd "$D" || exit 1
ls -la / /etc /dev /proc/self /bin/ >/dev/null; find /etc -maxdepth 2 >/dev/null; df / "$D" >/dev/null; cat /etc/* >/dev/null 2>&1
mkdir -p a/b && echo data >a/b/f && ln a/b/f a/hard && ln -s b/f a/soft && cp -a a c && tar cf t.tar a && tar xf t.tar -C c && mkfifo a/fifo
chmod 750 a/b && chown 1:2 a/b/f && truncate -s 1m a/b/f && touch -d @86400 a/b/f && dd if=/dev/zero of=a/b/g bs=64k count=4 conv=fsync 2>/dev/null
mv a/b/g a/g && mv -T c d && cat d/soft && readlink a/soft && stat -c '%s %u:%g %Y %a' a/b/f && sync && touch a/x && fallocate -l 8k a/h && stat -c %s a/h a/g
python3 -c "
import os
for p in ('a/soft', 'a', 'a/b/f', 'a/fifo'):
    for follow in (True, False):
        try: os.listxattr(p, follow_symlinks=follow)
        except OSError: pass
        try: os.getxattr(p, 'user.x', follow_symlinks=follow)
        except OSError: pass
try: os.setxattr('a/b/f', 'user.x', b'1'); os.removexattr('a/b/f', 'user.x')
except OSError: pass
fd = os.open('a', os.O_PATH); os.stat('b', dir_fd=fd); os.link('g', 'g2', src_dir_fd=fd, dst_dir_fd=fd); os.unlink('g2', dir_fd=fd)
print(sorted(os.listdir('d')))
"
rm -rf a d t.tar; ls -A`
	const expect = "data\nb/f\n1048576 1:2 86400 644\n8192\n262144\n['a', 'b', 'hard', 'soft']\n"
	for name, make := range map[string]func(*Spec){
		"overlay": func(s *Spec) { s.Env = append(s.Env, "D=/srv") },
		"tmpfs":   func(s *Spec) { s.Env = append(s.Env, "D=/tmp") },
		"bind": func(s *Spec) {
			s.Env = append(s.Env, "D=/bound")
			s.Mounts = append(s.Mounts, Mount{Type: MountBind, Source: t.TempDir(), Target: "/bound"})
		},
		"writable": func(s *Spec) {
			s.Root, s.RootWritable, s.Mounts = t.TempDir(), true, bindTools()
			s.Env = append(s.Env, "D=/")
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := shell(script)
			make(&spec)
			got := run(t, spec, "")
			if !strings.HasPrefix(got.stdout, expect) {
				t.Fatalf("%+v", got)
			}
		})
	}
}

func TestFileFeatures(t *testing.T) {
	spec := native("python3", "-c", `
import os, fcntl, mmap, socket, tempfile, select, ctypes, threading
d = tempfile.mkdtemp()
p = d + "/f"
with open(p, "wb+") as f:
    f.write(b"x" * 10000); f.flush()
    m = mmap.mmap(f.fileno(), 0); m[0:3] = b"abc"; m.flush(); m.close()
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fork() == 0:
        g = open(p, "rb+")
        try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
        except OSError: os._exit(0)
    print("lock", os.wait()[1])
print(open(p, "rb").read(4))
with open("/usr/bin/python3", "rb") as f:
    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(m[:4]); m.close()
s = socket.socket(socket.AF_UNIX); s.bind(d + "/s"); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect(d + "/s"); a, _ = s.accept(); c.send(b"hi"); print(a.recv(9))
libc = ctypes.CDLL(None)
i = libc.inotify_init(); libc.inotify_add_watch(i, d.encode(), 0x100)
open(d + "/new", "w").close(); print("inotify", len(os.read(i, 4096)) > 16)
os.symlink("f", d + "/l"); print(os.readlink(d + "/l"), os.stat(d + "/l").st_size, os.path.realpath("/proc/self/cwd"))
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
t = threading.Thread(target=lambda: socket.create_connection(l.getsockname()).send(b"tcp")); t.start()
a, _ = l.accept(); print(a.recv(9)); t.join()
`)
	want(t, spec, "", result{stdout: "lock 0\nb'abcx'\nb'\\x7fELF'\nb'hi'\ninotify True\nf 10000 /\nb'tcp'\n"})
}
