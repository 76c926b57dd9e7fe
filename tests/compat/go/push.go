package main

import (
	"slices"
	"strings"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Push consumers: delivery, retry, dead letters, sharing.

// A push consumer asks for its assignment one second after its start; before that it receives nothing.
const warmUp = 4 * time.Second

func pushSuccess(run *Run) {
	topic, group := run.topic(), run.group("group")
	inbox := newInbox()
	run.step("starting the push consumer")
	run.pushConsumer(group, topic, inbox)
	bodies := numbered("push", 50)
	run.step("sending 50 messages")
	sendAll(run.producer(topic), topic, bodies...)
	run.step("waiting for 50 deliveries, then for 10 s of quiet")
	inbox.waitFor(50, 30*time.Second)
	inbox.waitQuiet(10 * time.Second)
	expectOnce(inbox.bodies(), bodies)
	run.expectNoLag(group, topic)
}

func pushRetryDlq(run *Run) {
	topic, group := run.topic(), run.group("group", "max_attempts=3", "retry=1s,1s")
	reader := run.group("reader")
	inbox := &Inbox{decide: func(Delivery) rmq.ConsumerResult { return rmq.FAILURE }}
	run.step("starting a push consumer that always fails")
	run.pushConsumer(group, topic, inbox)
	bodies := numbered("hopeless", 3)
	sendAll(run.producer(topic), topic, bodies...)
	run.step("waiting for three deliveries of each message")
	inbox.waitFor(9, 30*time.Second)
	inbox.waitQuiet(5 * time.Second)
	for _, body := range bodies {
		expectAttempts(inbox, body, 1, 2, 3)
	}
	run.step("reading the dead letter queue")
	consumer := run.simpleConsumer(reader, "%DLQ%"+group, "*")
	expectOnce(texts(collect(consumer, 3, 20*time.Second)), bodies)
	expectSilence(consumer, quiet)
	run.expectNoLag(group, topic)
}

func pushRetryThenOk(run *Run) {
	topic, group := run.topic(), run.group("group", "max_attempts=3", "retry=1s,1s")
	inbox := &Inbox{decide: func(delivery Delivery) rmq.ConsumerResult {
		if delivery.attempt > 1 {
			return rmq.SUCCESS
		}
		return rmq.FAILURE
	}}
	run.step("starting a push consumer that fails once")
	run.pushConsumer(group, topic, inbox)
	sendAll(run.producer(topic), topic, "second chance")
	run.step("waiting for two deliveries")
	inbox.waitFor(2, 30*time.Second)
	inbox.waitQuiet(5 * time.Second)
	expectAttempts(inbox, "second chance", 1, 2)
	run.expectNoLag(group, topic)
}

func expectAttempts(inbox *Inbox, body string, expected ...int32) {
	var attempts []int32
	var gaps []string
	var last time.Time
	for _, delivery := range inbox.deliveries() {
		if delivery.body != body {
			continue
		}
		if len(attempts) > 0 {
			gaps = append(gaps, delivery.at.Sub(last).Round(10*time.Millisecond).String())
		}
		attempts, last = append(attempts, delivery.attempt), delivery.at
	}
	say("`%s` came %d times, apart by %s", body, len(attempts), strings.Join(gaps, ", "))
	require(slices.Equal(attempts, expected), "`%s` came with attempts %d instead of %d", body, attempts, expected)
}

func groupShares(run *Run) {
	topic, group := run.topic(), run.group("group")
	inboxes := []*Inbox{newInbox(), newInbox()}
	run.step("starting two push consumers of one group")
	for _, inbox := range inboxes {
		run.pushConsumer(group, topic, inbox)
	}
	time.Sleep(warmUp)
	bodies := numbered("shared", 100)
	run.step("sending 100 messages")
	sendAll(run.producer(topic), topic, bodies...)
	run.step("waiting for all of them")
	for _, inbox := range inboxes {
		inbox.waitQuiet(6 * time.Second)
	}
	say("the consumers got %d and %d messages", inboxes[0].count(), inboxes[1].count())
	expectOnce(slices.Concat(inboxes[0].bodies(), inboxes[1].bodies()), bodies)
	require(inboxes[0].count() > 0 && inboxes[1].count() > 0, "one of the consumers got nothing")
	run.expectNoLag(group, topic)
}

func groupsEach(run *Run) {
	topic := run.topic()
	groups := []string{run.group("one"), run.group("two")}
	inboxes := []*Inbox{newInbox(), newInbox()}
	run.step("starting one push consumer in each of two groups")
	for index, group := range groups {
		run.pushConsumer(group, topic, inboxes[index])
	}
	bodies := numbered("for each", 20)
	sendAll(run.producer(topic), topic, bodies...)
	run.step("waiting for 20 deliveries in both groups")
	for index, group := range groups {
		inboxes[index].waitFor(20, 30*time.Second)
		inboxes[index].waitQuiet(quiet)
		expectOnce(inboxes[index].bodies(), bodies)
		run.expectNoLag(group, topic)
	}
}
