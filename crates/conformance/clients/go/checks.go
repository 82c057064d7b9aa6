package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

const checkSecondsMax = 90

// checks runs named checks in order and prints `ok NAME` or `not ok NAME: reason` for each.
type checks struct {
	ran    int
	failed bool
}

func (c *checks) check(name string, body func(context.Context) error) {
	c.ran++
	ctx, cancel := context.WithTimeout(context.Background(), checkSecondsMax*time.Second)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- body(ctx) }()
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		err = fmt.Errorf("no result after %d s", checkSecondsMax)
	}
	if err != nil {
		c.failed = true
		fmt.Printf("not ok %s: %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	fmt.Printf("ok %s\n", name)
}

func unique(prefix string) string {
	var random [5]byte
	_, _ = rand.Read(random[:])
	return prefix + "-" + hex.EncodeToString(random[:])
}

func equal[T comparable](actual, expected T, what string) error {
	if actual != expected {
		return fmt.Errorf("%s: expected %v, was %v", what, expected, actual)
	}
	return nil
}

func waitUntil(ctx context.Context, what string, condition func() bool) error {
	for !condition() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not reached", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
