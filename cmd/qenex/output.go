package main

import (
	"encoding/json"
	"fmt"
)

// printJSON prints v for people and programs.
func printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		_, err = fmt.Println(string(b))
	}
	return err
}
