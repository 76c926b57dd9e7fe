package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Faults: the server or the consumer is killed, and nothing acknowledged is lost or repeated.

// The client acknowledges right after the listener; what was consumed this long before the kill counts as acknowledged.
const settled = 2 * time.Second

// Stream sends numbered messages until it is stopped and remembers when each was acknowledged.
type Stream struct {
	stopped      atomic.Bool
	acknowledged chan map[string]time.Time
}

func newStream(producer rmq.Producer, topic string) *Stream {
	stream := &Stream{acknowledged: make(chan map[string]time.Time, 1)}
	go stream.send(producer, topic)
	return stream
}

func (stream *Stream) send(producer rmq.Producer, topic string) {
	acknowledged := make(map[string]time.Time)
	for index := 0; !stream.stopped.Load(); index++ {
		body := fmt.Sprintf("stream %d", index)
		if _, err := send(producer, &rmq.Message{Topic: topic, Body: []byte(body)}); err != nil {
			say("send of `%s` failed, which is allowed while the server is away: %s", body, oneLine(err))
			time.Sleep(200 * time.Millisecond)
			continue
		}
		acknowledged[body] = time.Now()
		time.Sleep(20 * time.Millisecond)
	}
	stream.acknowledged <- acknowledged
}

// stop returns when the server acknowledged which message.
func (stream *Stream) stop() map[string]time.Time {
	stream.stopped.Store(true)
	select {
	case acknowledged := <-stream.acknowledged:
		return acknowledged
	case <-time.After(20 * time.Second):
		panic(failed{"a send did not return within 20 s"})
	}
}

func serverKilled(run *Run) {
	topic, group, auditors := run.topic(), run.group("group"), run.group("auditors")
	inbox := newInbox()
	run.pushConsumer(group, topic, inbox)
	stream := newStream(run.producer(topic), topic)
	run.step("sending and receiving before the kill")
	inbox.waitFor(20, 15*time.Second)
	time.Sleep(3 * time.Second)
	killedAt := time.Now()
	consumed := make(map[string]bool)
	for _, one := range inbox.deliveries() {
		consumed[one.body] = one.at.Before(killedAt.Add(-settled))
	}
	run.step("asking for a restart")
	run.ask("restart")
	restartedAt := time.Now()
	run.step("sending and receiving after the restart")
	time.Sleep(6 * time.Second)
	acknowledged := stream.stop()
	expectSentAfter(acknowledged, restartedAt)
	waitForAll(inbox, acknowledged)
	inbox.waitQuiet(quiet)
	expectGoneOn(inbox, restartedAt)
	var again []string
	for _, one := range inbox.deliveries() {
		if one.at.After(killedAt) && consumed[one.body] {
			again = append(again, one.body)
		}
	}
	require(len(again) == 0, "%d acknowledged messages came again: %q", len(again), few(again))
	run.step("looking for every acknowledged send with a group that starts at the beginning")
	expectStored(run.simpleConsumer(auditors, topic, "*"), acknowledged)
}

// expectStored asks a group that has seen nothing: most messages were consumed before the kill, and only it can tell that they survived.
func expectStored(auditor rmq.SimpleConsumer, acknowledged map[string]time.Time) {
	missing := maps.Clone(acknowledged)
	for waiting := newDeadline(20 * time.Second); len(missing) > 0; {
		require(!waiting.over(), "%d acknowledged sends are gone after the restart: %q", len(missing), few(slices.Collect(maps.Keys(missing))))
		got, err := receive(auditor, 32, long)
		check(err)
		for _, one := range got {
			delete(missing, text(one))
		}
	}
}

func expectSentAfter(acknowledged map[string]time.Time, restartedAt time.Time) {
	after := 0
	for _, at := range acknowledged {
		if at.After(restartedAt) {
			after++
		}
	}
	say("%d sends acknowledged, %d of them after the restart", len(acknowledged), after)
	require(after > 0, "no send was acknowledged after the restart")
}

func waitForAll(inbox *Inbox, expected map[string]time.Time) {
	waiting := newDeadline(75 * time.Second)
	for {
		came := make(map[string]bool)
		for _, body := range inbox.bodies() {
			came[body] = true
		}
		var missing []string
		for body := range expected {
			if !came[body] {
				missing = append(missing, body)
			}
		}
		if len(missing) == 0 {
			return
		}
		require(!waiting.over(), "%d acknowledged sends were not received within 75 s: %q", len(missing), few(missing))
		time.Sleep(200 * time.Millisecond)
	}
}

func expectGoneOn(inbox *Inbox, restartedAt time.Time) {
	deliveries := inbox.deliveries()
	first := slices.IndexFunc(deliveries, func(one Delivery) bool { return one.at.After(restartedAt) })
	require(first >= 0, "the consumer received nothing after the restart")
	say("first delivery %v after the restart", deliveries[first].at.Sub(restartedAt).Round(10*time.Millisecond))
}

func consumerKilled(run *Run) {
	topic, group := run.topic(), run.group("group")
	sendAll(run.producer(topic), topic, numbered("inherited", 10)...)
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("receiving ten and acknowledging five")
	for _, one := range take(consumer, 10, 8*time.Second, short) {
		if wasAcknowledged(text(one)) {
			check(ack(consumer, one))
		}
	}
	run.step("asking to be killed")
	run.ask("kill-me consumer_killed_heir")
	panic(failed{"the runner answered `kill-me` instead of killing this program"})
}

// wasAcknowledged makes both lives of the consumer agree on the five: the body tells.
func wasAcknowledged(body string) bool {
	return slices.Contains(numbered("inherited", 5), body)
}

func consumerKilledHeir(run *Run) {
	topic, group := run.nameIn("consumer_killed", "topic"), run.nameIn("consumer_killed", "group")
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("waiting for the five that were not acknowledged")
	got := collect(consumer, 5, 30*time.Second)
	bodies := texts(got)
	require(!slices.ContainsFunc(bodies, wasAcknowledged), "acknowledged ones came again: %q", bodies)
	expectOnce(bodies, numbered("inherited", 10)[5:])
	for _, one := range got {
		expectAttempt(one, 2)
	}
	run.step("expecting nothing else")
	expectSilence(consumer, 12*time.Second)
	run.expectNoLag(group, topic)
}

func producerRestartHandle(run *Run) {
	topic, group := run.topic(), run.group("group")
	sendAll(run.producer(topic), topic, "held across the restart")
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("receiving before the restart")
	held := take(consumer, 1, 15*time.Second, long)[0]
	// Counted from the receive: the acknowledgement must come before the invisible duration ends, the silence must outlast it.
	ackInTime, invisible := newDeadline(25*time.Second), newDeadline(long+5*time.Second)
	run.step("asking for a restart")
	run.ask("restart")
	run.step("acknowledging with the handle from before the restart")
	acknowledge(consumer, held, ackInTime)
	run.step("expecting no redelivery after the invisible duration")
	for !invisible.over() {
		if err := silence(consumer, 3*time.Second); err != nil {
			say("a receive failed, which is allowed right after the restart: %s", oneLine(err))
			time.Sleep(500 * time.Millisecond)
		}
	}
	run.expectNoLag(group, topic)
}

// acknowledge tries until an answer comes: the connection may need a moment to come back, only an answer of the server is final.
func acknowledge(consumer rmq.SimpleConsumer, held *rmq.MessageView, inTime deadline) {
	for {
		err := ack(consumer, held)
		if err == nil {
			return
		}
		_, answered := code(err)
		require(!answered, "the acknowledgement was refused: %s", oneLine(err))
		require(!inTime.over(), "the acknowledgement did not get through: %s", oneLine(err))
		say("the acknowledgement did not get through yet: %s", strings.TrimSpace(oneLine(err)))
		time.Sleep(500 * time.Millisecond)
	}
}
