package seccomp

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary install a filter and try one call.
const childEnv = "QENEX_SECCOMP_TEST"

func TestMain(m *testing.M) {
	if try := os.Getenv(childEnv); try != "" {
		child(try)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runtimeRules is what a Go program needs to go on and to end.
func runtimeRules() []Rule {
	rules := Allow(unix.SYS_READ, unix.SYS_WRITE, unix.SYS_FUTEX, unix.SYS_EXIT_GROUP, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE,
		unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGACTION, unix.SYS_SIGALTSTACK, unix.SYS_CLONE, unix.SYS_GETPID,
		unix.SYS_TGKILL, unix.SYS_NANOSLEEP, unix.SYS_GETTID, unix.SYS_SCHED_YIELD, unix.SYS_EPOLL_PWAIT, unix.SYS_MPROTECT, unix.SYS_PRCTL)
	return append(rules, Rule{Nr: unix.SYS_DUP, When: [][]Arg{{{N: 0, Values: []uint32{1, 2}}}}})
}

func child(try string) {
	prog, err := Compile(runtimeRules())
	if err == nil {
		// A thread from before the filter, to see that it is confined too.
		ready, start, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ready)
			<-start
			if strings.HasPrefix(try, "thread ") {
				call(strings.TrimPrefix(try, "thread "))
			}
			close(done)
		}()
		<-ready
		if err = Install(prog); err == nil {
			close(start)
			<-done
			if !strings.HasPrefix(try, "thread ") {
				call(try)
			}
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("survived")
}

func call(what string) {
	switch what {
	case "nothing":
	case "getuid":
		unix.RawSyscall(unix.SYS_GETUID, 0, 0, 0)
	case "dup 1":
		unix.RawSyscall(unix.SYS_DUP, 1, 0, 0)
	case "dup 0":
		unix.RawSyscall(unix.SYS_DUP, 0, 0, 0)
	case "dup 1 above 32 bits":
		unix.RawSyscall(unix.SYS_DUP, 1<<32|1, 0, 0)
	case "x32":
		unix.RawSyscall(1<<30|unix.SYS_GETPID, 0, 0, 0)
	}
}

func TestFilterInChild(t *testing.T) {
	for try, dies := range map[string]bool{
		"nothing": false, "dup 1": false, "thread dup 1": false,
		"getuid": true, "dup 0": true, "dup 1 above 32 bits": true, "x32": true, "thread getuid": true,
	} {
		t.Run(try, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"="+try)
			out, err := cmd.Output()
			if !dies {
				if err != nil || string(out) != "survived\n" {
					t.Fatalf("%q, %v; want it to survive", out, err)
				}
				return
			}
			ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !ok || !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
				t.Fatalf("%v, output %q; want death by SIGSYS", cmd.ProcessState, out)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	many := make([]uint32, 300)
	for name, rules := range map[string][]Rule{
		"negative":     {{Nr: -1}},
		"x32":          {{Nr: 1 << 30}},
		"twice":        {{Nr: 1}, {Nr: 1}},
		"argument 6":   {{Nr: 1, When: [][]Arg{{{N: 6, Values: []uint32{1}}}}}},
		"no value":     {{Nr: 1, When: [][]Arg{{{N: 0}}}}},
		"too many":     {{Nr: 1, When: [][]Arg{{{N: 0, Values: many}}}}},
		"a long block": {{Nr: 1, When: [][]Arg{{{N: 0, Values: many[:200]}}, {{N: 1, Values: many[:200]}}}}},
	} {
		if prog, err := Compile(rules); err == nil {
			t.Errorf("%s: %d instructions, want an error", name, len(prog))
		}
	}
}

// run is an interpreter of the few instructions used, after the kernel's documentation.
func run(prog []unix.SockFilter, data []byte) (uint32, error) {
	var a uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		switch in.Code {
		case opLoad:
			a = binary.LittleEndian.Uint32(data[in.K:])
		case opAnd:
			a &= in.K
		case opEqual:
			if a == in.K {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		case opRet:
			return in.K, nil
		default:
			return 0, fmt.Errorf("instruction %#x", in.Code)
		}
	}
	return 0, fmt.Errorf("fell off the end")
}

// allowed is what the rules mean.
func allowed(rules []Rule, nr int, args [6]uint64) bool {
	for _, r := range rules {
		if r.Nr != nr {
			continue
		}
		if len(r.When) == 0 {
			return true
		}
		for _, list := range r.When {
			all := true
			for _, c := range list {
				mask, one := c.Mask, false
				if mask == 0 {
					mask = ^uint64(0)
				}
				for _, v := range c.Values {
					one = one || args[c.N]&mask == uint64(v)
				}
				all = all && one
			}
			if all {
				return true
			}
		}
	}
	return false
}

// FuzzCompile compares the compiled program with the meaning of the rules.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{3, 1, 2, 0xff, 1, 7, 9, 2, 5, 1, 1, 1}, 1, uint64(7), uint64(1))
	f.Add([]byte{1, 0, 0, 0, 4, 1, 2, 3, 4}, 0, uint64(1<<32|1), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, nr int, a0, a1 uint64) {
		next := func() int {
			if len(b) == 0 {
				return 0
			}
			v := b[0]
			b = b[1:]
			return int(v)
		}
		var rules []Rule
		for n := next() % 5; n > 0; n-- {
			r := Rule{Nr: next() % 8}
			for lists := next() % 3; lists > 0; lists-- {
				var list []Arg
				for conds := next() % 3; conds >= 0; conds-- {
					c := Arg{N: next() % 2, Mask: uint64(next()) << (next() % 57)}
					for vs := next() % 4; vs >= 0; vs-- {
						c.Values = append(c.Values, uint32(next()))
					}
					list = append(list, c)
				}
				r.When = append(r.When, list)
			}
			rules = append(rules, r)
		}
		prog, err := Compile(rules)
		if err != nil {
			return // a call twice
		}
		nr &= 7
		data := make([]byte, 64)
		binary.LittleEndian.PutUint32(data[offsetNr:], uint32(nr))
		binary.LittleEndian.PutUint32(data[offsetArch:], unix.AUDIT_ARCH_X86_64)
		binary.LittleEndian.PutUint64(data[offsetArgs:], a0)
		binary.LittleEndian.PutUint64(data[offsetArgs+8:], a1)
		got, err := run(prog, data)
		if err != nil {
			t.Fatal(err)
		}
		if want := allowed(rules, nr, [6]uint64{a0, a1}); (got == unix.SECCOMP_RET_ALLOW) != want {
			t.Fatalf("rules %+v, call %d(%#x, %#x): %#x, want allowed=%v", rules, nr, a0, a1, got, want)
		}
		binary.LittleEndian.PutUint32(data[offsetArch:], unix.AUDIT_ARCH_I386)
		if got, err := run(prog, data); err != nil || got != unix.SECCOMP_RET_KILL_PROCESS {
			t.Fatalf("32-bit call: %#x, %v", got, err)
		}
	})
}
