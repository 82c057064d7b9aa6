// The Go client programs: clients kafka|log-ins PROTOCOL=HOST:PORT...
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	programs := map[string]func(*checks, string){"kafka": runKafka, "log-ins": runLogIns}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: clients kafka|log-ins PROTOCOL=HOST:PORT...")
		os.Exit(2)
	}
	addresses := map[string]string{}
	for _, argument := range os.Args[2:] {
		protocol, address, _ := strings.Cut(argument, "=")
		addresses[protocol] = address
	}
	checks := &checks{}
	programs[os.Args[1]](checks, addresses["kafka"])
	if checks.failed || checks.ran == 0 {
		os.Exit(1)
	}
}
