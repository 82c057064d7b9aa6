// The Go client programs: clients kafka PROTOCOL=HOST:PORT...
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "kafka" {
		fmt.Fprintln(os.Stderr, "usage: clients kafka PROTOCOL=HOST:PORT...")
		os.Exit(2)
	}
	addresses := map[string]string{}
	for _, argument := range os.Args[2:] {
		protocol, address, _ := strings.Cut(argument, "=")
		addresses[protocol] = address
	}
	checks := &checks{}
	runKafka(checks, addresses["kafka"])
	if checks.failed || checks.ran == 0 {
		os.Exit(1)
	}
}
