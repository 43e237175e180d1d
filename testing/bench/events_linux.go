package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/client"
)

// readyPatience bounds the wait for the executor's word on a sandbox that was used already.
const readyPatience = 5 * time.Second

// ready is what the executor says about one sandbox that it made: how long it took from the call to the
// agent's answer, and each step of it.
type ready struct {
	total time.Duration
	steps map[string]time.Duration
}

// watchReady follows the executor's events until ctx ends and returns what it says about sandboxes, each once.
func watchReady(ctx context.Context, socket string) (<-chan ready, error) {
	service, err := client.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	sandboxes := make(chan ready, 1024) // more than a run makes
	go func() {
		defer close(sandboxes)
		defer service.Close()
		_ = api.ReadEvents(ctx, service, api.Events{Follow: true}, func(line []byte) error { // its end is that of the channel
			if r, ok := parseReady(line); ok {
				sandboxes <- r
			}
			return nil
		})
	}()
	return sandboxes, nil
}

// parseReady reads the event "sandbox ready": its fields that end in _ms are durations.
func parseReady(line []byte) (ready, bool) {
	var event map[string]any
	if json.Unmarshal(line, &event) != nil || event["message"] != "sandbox ready" {
		return ready{}, false
	}
	r := ready{steps: map[string]time.Duration{}}
	for key, value := range event {
		name, isDuration := strings.CutSuffix(key, "_ms")
		number, isNumber := value.(float64)
		if !isDuration || !isNumber {
			continue
		}
		d := time.Duration(number * float64(time.Millisecond))
		if name == "ready" {
			r.total = d
		} else {
			r.steps[name] = d
		}
	}
	return r, r.total > 0
}

// next returns what the executor says about the sandbox that was made last.
func next(sandboxes <-chan ready) (ready, error) {
	select {
	case r, ok := <-sandboxes:
		if ok {
			return r, nil
		}
		return ready{}, fmt.Errorf("the executor's events ended")
	case <-time.After(readyPatience):
		return ready{}, fmt.Errorf("the executor said nothing about its sandbox within %s", readyPatience)
	}
}
