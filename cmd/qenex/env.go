package main

import (
	"fmt"
	"os"
	"strings"
)

// defaultEnv sets a variable that is not set.
func defaultEnv(env *[]string, name, value string) {
	for _, e := range *env {
		if strings.HasPrefix(e, name+"=") {
			return
		}
	}
	*env = append(*env, name+"="+value)
}

// setEnv sets a variable given as NAME=VALUE, or NAME alone for the value it has here, or removes it if it has none.
func setEnv(env *[]string, text string) error {
	name, _, given := strings.Cut(text, "=")
	if name == "" || strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("--env %q: write NAME=VALUE", text)
	}
	kept := (*env)[:0:0]
	for _, e := range *env {
		if !strings.HasPrefix(e, name+"=") {
			kept = append(kept, e)
		}
	}
	if !given {
		value, set := os.LookupEnv(name)
		if !set {
			*env = kept
			return nil
		}
		text = name + "=" + value
	}
	*env = append(kept, text)
	return nil
}
