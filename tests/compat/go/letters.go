package main

import (
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Dead letters: they wait, and come again when an operator redrives them.

func nackDlqRedrive(run *Run) {
	topic, group := run.topic(), run.group("group", "max_attempts=2", retryQuickly)
	reader := run.group("reader")
	var healed atomic.Bool
	inbox := &Inbox{decide: func(Delivery) rmq.ConsumerResult {
		if healed.Load() {
			return rmq.SUCCESS
		}
		return rmq.FAILURE
	}}
	run.step("starting a push consumer that fails")
	run.pushConsumer(group, topic, inbox)
	sendAll(run.producer(topic), topic, "sick")
	inbox.waitFor(2, 30*time.Second)
	inbox.waitQuiet(quiet)
	expectAttempts(inbox, "sick", 1, 2)
	run.step("reading the dead letter queue")
	letters := run.simpleConsumer(reader, "%DLQ%"+group, "*")
	expectOnce(texts(collect(letters, 1, 15*time.Second)), []string{"sick"})
	run.step("redriving")
	healed.Store(true)
	run.ask("redrive %s", group)
	inbox.waitFor(3, 20*time.Second)
	inbox.waitQuiet(quiet)
	expectOnce(inbox.bodies()[2:], []string{"sick"})
	say("after the redrive it came with attempt %d", inbox.deliveries()[2].attempt)
	expectSilence(letters, 3*time.Second)
	run.expectNoLag(group, topic)
}
