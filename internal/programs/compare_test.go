package programs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leastCompared is how many programs must have been there to compare: fewer would prove little.
const leastCompared = 45

const pythonThreads = `
import threading, queue
q, out, lock = queue.Queue(), [], threading.Lock()
def work():
    while True:
        n = q.get()
        if n is None: return
        with lock: out.append(n * n)
ts = [threading.Thread(target=work) for _ in range(16)]
for t in ts: t.start()
for i in range(1000): q.put(i)
for t in ts: q.put(None)
for t in ts: t.join()
print(len(out), sum(out))
`

const pythonSockets = `
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(1)
def serve():
    c, _ = s.accept()
    while (b := c.recv(4096)): c.sendall(b.upper())
    c.close()
t = threading.Thread(target=serve); t.start()
c = socket.create_connection(s.getsockname()); c.sendall(b"over loopback"); c.shutdown(socket.SHUT_WR)
print(c.makefile().read()); t.join()
`

const pythonModules = `
import json, re, hashlib, zlib, datetime, struct, math, random, decimal, itertools, collections, sqlite3, tempfile, os
d = {"a": [1, 2.5, None, True], "b": {"c": "\u00e9"}}
print(json.dumps(d, sort_keys=True), json.loads(json.dumps(d)) == d)
print(re.findall(r"(\w+)@(\w+)", "x@y, foo@bar"), hashlib.sha512(b"qenex").hexdigest()[:32])
print(len(zlib.compress(b"a" * 100000)), struct.pack(">IHd", 1, 2, 3.5).hex(), math.pi, decimal.Decimal(1) / 7)
random.seed(7); print([random.randrange(1000) for _ in range(5)])
with tempfile.TemporaryDirectory() as t:
    db = sqlite3.connect(os.path.join(t, "x.db")); db.execute("create table t (a)"); db.executemany("insert into t values (?)", [(i,) for i in range(1000)])
    db.commit(); print(db.execute("select sum(a) from t").fetchone())
`

const pythonFork = `
import os, mmap, signal, subprocess, multiprocessing
m = mmap.mmap(-1, 4096)
for i in range(10):
    p = os.fork()
    if p == 0:
        m[i] = i * i; os._exit(i)
    print(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]), end=" ")
print(list(m[:10]))
signal.signal(signal.SIGUSR1, lambda *a: print("handled")); os.kill(os.getpid(), signal.SIGUSR1)
print(subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 4"], capture_output=True))
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool: print(pool.map(abs, range(-5, 5)))
`

const cProgram = `
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
static int cmp(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(void) {
	int v[1000]; unsigned x = 1; double s = 0;
	for (int i = 0; i < 1000; i++) { x = x * 1103515245 + 12345; v[i] = x >> 16 & 1023; s += sqrt(v[i]); }
	qsort(v, 1000, sizeof *v, cmp);
	printf("%d %d %d %.6f\n", v[0], v[500], v[999], s);
	return 42;
}
`

const perlProgram = `
my %h; $h{length $_}++ for map { "x" x ($_ % 7) } 1..1000; print join(",", map { "$_=$h{$_}" } sort keys %h), "\n";
my $p = fork; if (!$p) { exit 9 } waitpid $p, 0; print $? >> 8, "\n";
open my $f, "-|", "echo piped" or die; print <$f>; $_ = "a1b22"; print join("|", /\d+/g), "\n"; printf "%s\n", sprintf("%08.3f", 3.14159);
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 10 }; print $@; warn "to stderr\n"; exit 6`

// git without anything of the user's or the clock's.
const git = `export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' HOME=$PWD
`

// compared is a command whose output, errors and exit code are the same in every run.
type compared struct {
	name  string
	needs string // programs that must be there, besides the first word of a command without shell
	sh    string // for /bin/sh -c
	args  []string
	stdin string
}

var comparedPrograms = []compared{
	{name: "exit code", sh: "echo hi; exit 7"},
	{name: "death by signal", sh: "kill -SEGV $$"},
	{name: "death by SIGKILL", sh: "kill -KILL $$"},
	{name: "not found", sh: "no-such-program-anywhere"},
	{name: "stdin to stdout", args: []string{"cat"}, stdin: strings.Repeat("all of it\n", 20000)},
	{name: "stderr apart", sh: "echo out; echo err >&2"},
	{name: "arguments", args: []string{"printf", "[%s]", "", "two words", "a*b", "$HOME", `"'\`}},
	{name: "environment", args: []string{"env"}},
	{name: "working directory", args: []string{"pwd"}},
	{name: "sh arithmetic and functions", sh: `f() { [ $1 -le 1 ] && echo 1 || echo $(($1 * $(f $(($1 - 1))))); }; f 10; trap 'echo bye' EXIT; for i in 1 2 3; do (exit $i); echo $?; done`},
	{name: "sh jobs", sh: `for i in 1 2 3 4 5; do (exit $i) & done; wait; echo done; (sleep 100 & kill $!; wait $!; echo $?)`},
	{name: "sh here-document and pipes", sh: "cat <<E | tr a-z A-Z | rev\nhello\nworld\nE", needs: "rev"},
	{name: "sh 100 children", sh: `i=0; while [ $i -lt 100 ]; do /bin/true || echo bad; i=$((i + 1)); done; echo $i`},
	{name: "bash arrays and regexps", needs: "bash", args: []string{"bash", "-c", `a=(x y z); echo ${#a[@]} ${a[@]:1}; [[ foo123 =~ ([0-9]+) ]] && echo ${BASH_REMATCH[1]}; declare -A m=([k]=v); echo ${m[k]}; echo $((2**40)); printf '%05d\n' 42`}},
	{name: "bash process substitution", needs: "bash", args: []string{"bash", "-c", `diff <(seq 5) <(seq 2 6); coproc cat; echo to >&${COPROC[1]}; read -u ${COPROC[0]} x; echo $x`}},
	{name: "ulimit", sh: "ulimit -n 64; ulimit -n; ulimit -c 0; ulimit -c"},
	{name: "seq and sort", sh: "seq 20000 | sort -R --random-source=/dev/zero | sort -n | tail -3; seq 100 | sort | head -5"},
	{name: "sort with temporary files", sh: "seq 100000 | sort -S 200k -r | sha256sum"},
	{name: "sed", sh: "seq 10 | sed -n '/3/,/5/{s/./&&/;p}'; echo abc | sed 's/b/[&]/;y/c/z/'"},
	{name: "sed in place", sh: "seq 5 >f; sed -i s/3/three/ f; cat f"},
	{name: "awk", needs: "awk", sh: `seq 1000 | awk '{s += $1; q[$1 % 7]++} END {print s; for (i = 0; i < 7; i++) print i, q[i]; printf "%.3f %s\n", exp(1), substr("hello", 2, 3)}'`},
	{name: "grep", sh: `seq 1000 | grep -c 7; seq 30 | grep -E '^(1|2)[05]$'; printf 'a\nb\n' | grep -v a; echo x | grep y`},
	{name: "find and xargs", needs: "find xargs", sh: "mkdir -p a/b/c; touch a/1 a/b/2 a/b/c/3; find a -type f | sort | xargs -n 2 echo; find a -name '*3' -exec echo {} +; find a -depth -delete; ls"},
	{name: "xargs in parallel", needs: "xargs", sh: "seq 40 | xargs -P 8 -I{} sh -c 'exit 0' && echo all; echo x | xargs false; echo $?"},
	{name: "dd", sh: "dd if=/dev/zero bs=1k count=300 2>/dev/null | tr '\\0' a | sha256sum; echo abcdef | dd bs=1 skip=2 count=3 2>/dev/null"},
	{name: "sparse file", sh: "dd if=/dev/null of=s bs=1 seek=10M 2>/dev/null; wc -c <s; sha256sum s"},
	{name: "cmp and diff", needs: "cmp diff", sh: "seq 10 >a; seq 11 >b; cmp a b; diff a b; diff -u a b | tail -n +3; echo $?"},
	{name: "checksums", sh: "seq 100000 >f; for p in sha256sum sha512sum sha1sum md5sum cksum b2sum; do $p f; done"},
	{name: "base64 and od", sh: "seq 50 | base64 | head -3; seq 50 | base64 | base64 -d | od -c | tail -3"},
	{name: "text utilities", sh: "printf 'b 2\\na 1\\n' >x; sort x | join - x 2>&1 | head; cut -d' ' -f2 x; paste x x; fold -w 2 x; nl x; tac x; wc x; expand x; uniq -c x; comm x x; tr -d ab <x; split -l 1 x p; ls"},
	{name: "ls", sh: "umask 022; mkdir d; touch d/f; chmod 640 d/f; ln -s f d/l; ls -A d; stat -c '%A %s %F %N' d/f d/l"},
	{name: "cp and mv", sh: "mkdir a; seq 5 >a/f; ln -s f a/l; cp -a a b; mv b c; diff -r a c && echo same; cp a/f a/f; rm -r a c; ls"},
	{name: "links and rm", sh: "echo x >a; ln a b; stat -c %h a; rm a; cat b; ln -s nowhere d; cat d; readlink d; rm b d; rmdir nope"},
	{name: "test and chmod", sh: "touch f; chmod 0 f; test -r f; echo $?; chmod +x f; test -x f; echo $?; chmod u=rw,go= f; stat -c %a f"},
	{name: "mkfifo", sh: "mkfifo p; (seq 1000 >p) & sort -n p | tail -1; wait"},
	{name: "tee and timeout", sh: "echo x | tee a b; cat a b; timeout 0.2 sleep 10; echo $?; timeout -s KILL 0.2 sleep 10; echo $?"},
	{name: "nohup and env", sh: "nohup echo x 2>/dev/null; env -i A=b env"},
	{name: "flock", needs: "flock", sh: "flock l -c 'flock -n l true || echo held'; flock -n l echo free"},
	{name: "setsid", needs: "setsid", sh: "setsid -w sh -c 'exit 5'; echo $?"},
	{name: "date and TZ", sh: "date -u -d @86400 +%F; TZ=UTC-3 date -d @0 +%H"},
	{name: "expr and factor", sh: "expr 6 '*' 7; expr abc : 'a\\(.\\)'; factor 1000000007 360; numfmt --to=iec 1048576"},
	{name: "bc", needs: "bc", args: []string{"bc", "-l"}, stdin: "scale=50; 4*a(1); 2^200\n"},
	{name: "tar", needs: "tar", sh: "mkdir d; seq 1000 >d/f; ln -s f d/l; tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf t d; sha256sum t; tar tvf t; rm -r d; tar xf t; wc -l d/f; readlink d/l"},
	{name: "gzip", needs: "gzip", sh: "seq 50000 | gzip -n9 >f.gz; sha256sum f.gz; zcat f.gz | sha256sum; gzip -t f.gz; echo junk | gzip -d"},
	{name: "bzip2", needs: "bzip2", sh: "seq 50000 | bzip2 | tee f | sha256sum; bzip2 -dc f | tail -1"},
	{name: "xz", needs: "xz", sh: "seq 100000 | xz -T1 -6 >f.xz; sha256sum f.xz; xz -dc f.xz | sha256sum; seq 100000 | xz -T2 --block-size=200KiB | xz -dc | sha256sum"},
	{name: "zstd", needs: "zstd", sh: "seq 100000 | zstd -q -T2 >f; zstd -dqc f | sha256sum"},
	{name: "cpio", needs: "cpio", sh: "echo x >a; echo a | cpio -o -H newc --quiet | cpio -t --quiet"},
	{name: "busybox", needs: "busybox", args: []string{"busybox", "sh", "-c", "seq 100 | busybox awk '{s+=$1} END {print s}'; busybox sha256sum /dev/null; busybox ls -d /"}},
	{name: "perl", needs: "perl", args: []string{"perl", "-e", perlProgram}},
	{name: "perl sockets and sorting", needs: "perl", args: []string{"perl", "-MSocket", "-e", `socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die; syswrite A, "msg"; sysread B, $x, 9; print "$x\n"; print join(" ", sort { $a <=> $b } map { ($_ * 7919) % 101 } 1..20), "\n"; print 2**0.5, " ", 10 % 3, "\n"`}},
	{name: "python3 modules", needs: "python3", args: []string{"python3", "-c", pythonModules}},
	{name: "python3 threads", needs: "python3", args: []string{"python3", "-c", pythonThreads}},
	{name: "python3 loopback", needs: "python3", args: []string{"python3", "-c", pythonSockets}},
	{name: "python3 fork, signals, subprocess", needs: "python3", args: []string{"python3", "-c", pythonFork}},
	{name: "python3 exception", needs: "python3", args: []string{"python3", "-c", "import sys\ndef f(): raise ValueError('x')\nsys.stdout.write('before\\n')\nf()"}},
	{name: "python3 asyncio", needs: "python3", args: []string{"python3", "-c", "import asyncio\nasync def f(n): await asyncio.sleep(0.001 * (10 - n)); return n\nasync def main():\n    print(await asyncio.gather(*[f(i) for i in range(10)]))\n    p = await asyncio.create_subprocess_exec('echo', 'sub', stdout=-1); print(await p.communicate())\nasyncio.run(main())"}},
	{name: "python3 compiles", needs: "python3", sh: "echo 'x = sum(range(100))' >m.py; python3 -m py_compile m.py && ls __pycache__ | wc -l; python3 -c 'import m; print(m.x)'"},
	{name: "git", needs: "git", sh: git + `git init -q -b main r && cd r && seq 100 >f && git add f && git commit -qm one && seq 2 101 >f && git commit -qam two && git log --stat && git diff HEAD~ | head -8 && git branch x && git checkout -q x && git mv f g && git commit -qm three && git checkout -q main && git merge -q x && git rev-parse HEAD && git fsck 2>&1 && git gc -q && git status -s && git cat-file -p HEAD`},
	{name: "git clone", needs: "git", sh: git + `git init -q -b main r && (cd r && echo 1 >f && git add f && git commit -qm one) && git clone -q r c && cd c && git log --oneline && git tag v1 && git archive v1 | sha256sum && git grep -n 1`},
	{name: "openssl dgst", needs: "openssl", sh: "seq 100000 | openssl dgst -sha256; seq 9 | openssl dgst -sha3-256; seq 9 | openssl dgst -sha1 -hmac key"},
	{name: "openssl enc", needs: "openssl", sh: "seq 1000 | openssl enc -aes-256-cbc -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 000102030405060708090a0b0c0d0e0f >e; sha256sum e; openssl enc -d -chacha20 -K 00 -iv 00 -in e 2>/dev/null | sha256sum"},
	{name: "openssl keys and signature", needs: "openssl", sh: "openssl genrsa -out k 1024 2>/dev/null; openssl rsa -in k -check -noout; echo m >m; openssl dgst -sha256 -sign k -out s m; openssl rsa -in k -pubout -out p 2>/dev/null; openssl dgst -sha256 -verify p -signature s m; openssl prime 1000003"},
	{name: "gcc compile and run", needs: "gcc", sh: "cat >p.c; gcc -O2 -Wall -o p p.c -lm && ./p; echo $?; gcc -O2 -static -o q p.c -lm && ./q; echo $?", stdin: cProgram},
	{name: "gcc preprocess and assemble", needs: "gcc", sh: "cat >p.c; gcc -O2 -S -fno-asynchronous-unwind-tables p.c -o - | sha256sum; gcc -E -P p.c | sha256sum; gcc -c p.c && nm p.o && size p.o; objdump -d p.o | sha256sum", stdin: cProgram},
	{name: "gcc error", needs: "gcc", sh: "echo 'int main(void) { return x; }' >e.c; gcc e.c"},
	{name: "gcc shared library", needs: "gcc", sh: "echo 'int f(void) { return 5; }' >l.c; echo 'int f(void); int main(void) { return f(); }' >m.c; gcc -shared -fPIC -o libl.so l.c && gcc -o m m.c -L. -ll -Wl,-rpath,$PWD && ./m; echo $?"},
	{name: "as and ld", needs: "as ld", sh: "printf '.globl _start\\n_start: mov $60,%%eax\\nmov $33,%%edi\\nsyscall\\n' | as -o s.o && ld -o s s.o && ./s; echo $?; ar rc l.a s.o; ar t l.a; strip s; readelf -h s | grep Entry"},
	{name: "make", needs: "make", sh: "printf 'all: a b\\n\\t@cat a b\\na b:\\n\\t@echo $@ >$@\\nbad:\\n\\tfalse\\n' >Makefile; make -j4; make -j4; make bad; echo $?"},
	{name: "m4 and bison", needs: "m4 bison", sh: "echo 'define(x, `y$1')x(5)' | m4; printf '%%%%\\ns: \"a\";\\n' >g.y; bison g.y -o g.c && grep -c yyparse g.c"},
	{name: "flex", needs: "flex", sh: "printf '%%%%\\n[0-9]+ printf(\"N\");\\n%%%%\\nint yywrap(void){return 1;}\\n' >l.l; flex -o l.c l.l && wc -l <l.c"},
	{name: "patch", needs: "patch diff", sh: "seq 5 >a; sed s/3/x/ a >b; diff -u a b >p; patch -s a p; cat a"},
	{name: "sqlite3", needs: "sqlite3", args: []string{"sqlite3", "t.db"}, stdin: "create table t(a integer primary key, b text); with recursive c(x) as (select 1 union all select x+1 from c where x<1000) insert into t select x, hex(x*x) from c; create index i on t(b); select count(*), sum(a), max(b) from t; pragma integrity_check;\n"},
	{name: "node", needs: "node", args: []string{"node", "-e", `const {execFileSync} = require("child_process"), c = require("crypto"), http = require("http"); console.log([3,1,2].sort(), c.createHash("sha256").update("x").digest("hex")); console.log(execFileSync("echo", ["sub"]).toString().trim()); const s = http.createServer((q, r) => r.end("served " + q.url)); s.listen(0, "127.0.0.1", () => http.get({port: s.address().port, path: "/x"}, r => r.on("data", d => { console.log(d.toString()); s.close() }))); let n = 0; for (let i = 0; i < 5e6; i++) n = (n * 31 + i) | 0; console.log(n); process.exitCode = 5`}},
	{name: "node workers", needs: "node", args: []string{"node", "-e", `const {Worker} = require("worker_threads"); let n = 0, d = 0; for (let i = 0; i < 4; i++) new Worker("const {parentPort, workerData} = require('worker_threads'); let s = 0; for (let i = 0; i < 1e6; i++) s += i % (workerData + 2); parentPort.postMessage(s)", {eval: true, workerData: i}).on("message", m => { n += m; if (++d == 4) console.log(n) })`}},
	{name: "java", needs: "java", args: []string{"java", "-version"}},
	{name: "ruby", needs: "ruby", args: []string{"ruby", "-e", `puts (1..10).map { |x| Thread.new { x * x } }.sum(&:value); puts "abc".succ; fork { exit 3 }; Process.wait; puts $?.exitstatus`}},
	{name: "php", needs: "php", args: []string{"php", "-r", `echo json_encode(array_map(fn($x) => $x * $x, range(1, 5))), md5("x"), "\n";`}},
	{name: "lua", needs: "lua", args: []string{"lua", "-e", "local t = {} for i = 1, 1000 do t[i] = i * i end print(#t, t[1000])"}},
	{name: "gdb", needs: "gdb", sh: "gdb -nx -batch -ex 'p 6*7' -ex 'p/x 255' 2>/dev/null"},
	{name: "getent", needs: "getent", sh: "getent passwd root; id -u; id -gn; getent nosuch x; echo $?"},
	{name: "locale and iconv", needs: "iconv locale", sh: "printf '\\303\\251' | iconv -f utf-8 -t latin1 | od -An -tx1; LC_ALL=C locale | head -2"},
	{name: "ldd", needs: "ldd", sh: "ldd /bin/sh | sed 's/ (0x.*//'"},
	{name: "dpkg", needs: "dpkg", sh: "dpkg --compare-versions 1.2-3 lt 1.10; echo $?; dpkg -s base-files | head -3; dpkg --print-architecture"},
	{name: "/proc", sh: "tr '\\0' ' ' </proc/self/cmdline; echo; readlink /proc/self/exe | xargs basename; ls /proc/self/fd | head -2; cat /proc/self/comm"},
	{name: "/dev", sh: "head -c 5 /dev/zero | od -An -tx1; echo x >/dev/null; echo x >/dev/full; head -c 3 /dev/urandom | wc -c; ls /dev/fd >/dev/null; echo $?; echo via >/dev/stdout"},
	{name: "large output", sh: "head -c 3000000 /dev/zero | tr '\\0' z"},
	{name: "closed stdout", sh: "echo x >&-; echo $? >&2"},
	{name: "deep recursion", needs: "perl", args: []string{"perl", "-e", "no warnings; sub f { $_[0] ? 1 + f($_[0] - 1) : 0 } print f(50000), qq(\\n)"}},
}

// TestComparePrograms runs what the host has, natively and in a guest: output, errors and exit code must be equal, and
// nothing that the guest writes may reach the host.
func TestComparePrograms(t *testing.T) {
	g := guest(t)
	list := comparedPrograms
	list = append(list,
		compared{name: "Go program", args: []string{needGo(t, "./internal/programs/goload")}},
		compared{name: "Go program on one thread", args: []string{"env", "GOMAXPROCS=1", needGo(t, "./internal/programs/goload")}},
		compared{name: "Go version", needs: "go", args: []string{"go", "version"}},
	)
	var passed, missing []string
	compared := 0 // fewer than are here if -run says so
	for i, c := range list {
		if testing.Short() && i%4 != 0 {
			continue // a sample
		}
		if name := c.missing(); name != "" {
			missing = append(missing, c.name+" (no "+name+")")
			continue
		}
		t.Run(strings.ReplaceAll(c.name, "/", "."), func(t *testing.T) {
			compared++
			if c.compare(t, g); !t.Failed() {
				passed = append(passed, c.name)
			}
		})
	}
	t.Logf("equal to native: %s", strings.Join(passed, ", "))
	if len(missing) > 0 {
		t.Logf("not on this host, NOT COMPARED: %s", strings.Join(missing, ", "))
	}
	t.Logf("%d programs compared, %d equal to native", compared, len(passed))
	if n := len(list) - len(missing); n < leastCompared {
		t.Errorf("only %d programs are here to compare, %d wanted", n, leastCompared)
	}
}

func (c compared) missing() string {
	for name := range strings.FieldsSeq(c.needs) {
		if !Has(name) {
			return name
		}
	}
	return ""
}

func (c compared) program(dir string) Program {
	args := c.args
	if c.sh != "" {
		args = []string{"/bin/sh", "-c", c.sh}
	}
	return Program{Args: args, Dir: dir, Stdin: c.stdin}
}

func (c compared) compare(t *testing.T, g Runner) {
	dir := t.TempDir()
	// The guest goes first: what it left in the directory would otherwise not be told from the native program's.
	got := run(t, g, c.program(dir))
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files of the guest reached the host: %q", left)
	}
	if got.Left > 0 {
		t.Errorf("%d processes are left of the guest", got.Left)
	}
	want := run(t, Native(), c.program(dir))
	want.Left = 0 // a native program may well leave some
	if got != want {
		t.Errorf("not equal\nnative: %v\nguest: %v", want, got)
	}
}

// files returns the names of all that is in dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if path != dir {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
