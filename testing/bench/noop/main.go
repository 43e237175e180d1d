// Command noop is the smallest custom executor's driver there is: it isolates nothing and runs every script with
// this machine's bash. What a job takes with it is the runner's own share.
//
//	noop config|prepare|cleanup DIRECTORY
//	noop run DIRECTORY SCRIPT STAGE
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("noop is called by a runner")
	}
	switch dir := os.Args[2]; os.Args[1] {
	case "config":
		fmt.Printf(`{"driver": {"name": "noop"}, "builds_dir": %q, "cache_dir": %q}`,
			filepath.Join(dir, "builds"), filepath.Join(dir, "cache"))
	case "run":
		bash, err := exec.LookPath("bash")
		if err != nil {
			log.Fatal(err)
		}
		log.Fatal(syscall.Exec(bash, []string{"bash", os.Args[3]}, os.Environ()))
	}
}
