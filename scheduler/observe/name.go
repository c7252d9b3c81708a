package observe

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// vcpuThreads are the names that machine monitors give to the threads of vCPUs: what stands before and behind the number.
var vcpuThreads = [][2]string{
	{"CPU ", "/KVM"},    // QEMU with debug-threads=on, as libvirt starts it
	{"fc_vcpu ", ""},    // Firecracker
	{"vcpu", ""},        // Cloud Hypervisor and QENEX
	{"crosvm_vcpu", ""}, // crosvm
	{"kvm-vcpu-", ""},   // kvmtool
}

// vcpuNumber tells whether a thread's name is that of a vCPU, and of which.
func vcpuNumber(name string) (int, bool) {
	for _, form := range vcpuThreads {
		s, ok := strings.CutPrefix(name, form[0])
		if !ok {
			continue
		}
		if s, ok = strings.CutSuffix(s, form[1]); !ok {
			continue
		}
		if n, err := strconv.ParseUint(s, 10, 16); err == nil {
			return int(n), true
		}
	}
	return 0, false
}

// programName returns a short name for a process: the guest's program for `qenex run`, else the name that the process has.
func programName(dir string) string {
	cmdline, _ := os.ReadFile(dir + "/cmdline")
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	if strings.HasPrefix(filepath.Base(args[0]), "qenex") && len(args) > 2 && args[1] == "run" {
		if program := guestProgram(args[2:], func(arg string) bool { return executable(dir+"/cwd", arg) }); program != "" {
			return tidy(filepath.Base(program))
		}
	}
	comm, _ := os.ReadFile(dir + "/comm")
	return tidy(string(bytes.TrimSuffix(comm, []byte("\n"))))
}

// guestProgram guesses which argument of `qenex run` is the program: the first that can be executed and is no flag, else the first that is
// neither a flag nor what may be a flag's value.
func guestProgram(args []string, executable func(string) bool) string {
	afterFlag, guess := false, ""
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			afterFlag = !strings.Contains(arg, "=")
			continue
		}
		if executable(arg) {
			return arg
		}
		if !afterFlag && guess == "" {
			guess = arg
		}
		afterFlag = false
	}
	return guess
}

func executable(cwd, arg string) bool {
	if !strings.Contains(arg, "/") {
		_, err := exec.LookPath(arg)
		return err == nil
	}
	if !filepath.IsAbs(arg) {
		arg = cwd + "/" + arg
	}
	st, err := os.Stat(arg)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// tidy makes a name that others chose fit for a table: short, and without anything a terminal would obey.
func tidy(name string) string {
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '/' || r == unicode.ReplacementChar {
			return '_'
		}
		return r
	}, name)
	if r := []rune(name); len(r) > 32 {
		name = string(r[:32])
	}
	if name == "" {
		return "process"
	}
	return name
}
