package auditchain_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/qenex/qenex-kernel/auditchain"
	"github.com/qenex/qenex-kernel/auditchain/verify"
)

func Example() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := example(dir); err != nil {
		fmt.Println(err)
	}
	// Output:
	// record 0 is durable
	// 2 records in 1 block
}

func example(dir string) error {
	key, err := auditchain.CreateKey(filepath.Join(dir, "key"), "host.example/audit")
	if err != nil {
		return err
	}
	log, err := auditchain.Open(filepath.Join(dir, "log"), auditchain.Config{Key: key})
	if err != nil {
		return err
	}
	index, err := log.Append(auditchain.Record{
		Kind: auditchain.Command, Who: "uid 1000", Verb: "vm.start", VM: "web-1", Args: sha256.Sum256([]byte("--memory 1G")),
	})
	if err != nil {
		return err
	}
	fmt.Printf("record %d is durable\n", index)
	if err := log.Close(); err != nil {
		return err
	}

	// Elsewhere, with the public key and the files:
	keys, err := verify.ParseKeys(key.Public().String())
	if err != nil {
		return err
	}
	report, err := verify.Log(os.DirFS(filepath.Join(dir, "log")), keys, verify.Options{})
	if err != nil {
		return err
	}
	fmt.Printf("%d records in %d block\n", report.Size, report.Blocks)
	return nil
}
