package programs

import (
	"bytes"
	"os"
	"strconv"
)

// group counts the living processes of a process group.
func group(id int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid pgrp; proc_pid_stat(5). The name may hold anything.
		f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(f) > 2 && string(f[0]) != "Z" && string(f[0]) != "X" && string(f[2]) == strconv.Itoa(id) {
			n++
		}
	}
	return n, nil
}
