package main

import (
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Simple consumers: batches, invisible durations, receipt handles.

const (
	// The shortest invisible duration the protocol allows for a receive.
	short = 10 * time.Second
	// A redelivery later than this after the end of the invisible duration is too late.
	slack = 5 * time.Second
	// Long enough to see a redelivery that is too late.
	tooLate = short + slack + 2*time.Second
)

// lease is a delivery and the times before and after the call that began its invisible duration.
type lease struct {
	message       *rmq.MessageView
	before, after time.Time
}

func simpleReceiveAck(run *Run) {
	topic, group := run.topic(), run.group("group")
	bodies := numbered("batch", 20)
	sendAll(run.producer(topic), topic, bodies...)
	run.step("receiving in batches of 8 and acknowledging")
	consumer := run.simpleConsumer(group, topic, "*")
	expectOnce(texts(collectBatches(consumer, 20, 20*time.Second, short, 8)), bodies)
	run.step("expecting nothing after the invisible duration")
	expectSilence(consumer, short+3*time.Second)
	run.expectNoLag(group, topic)
}

func receiveOne(consumer rmq.SimpleConsumer, invisible, in time.Duration) lease {
	for waiting := newDeadline(in); !waiting.over(); {
		before := time.Now()
		got, err := receive(consumer, 1, invisible)
		check(err)
		if len(got) > 0 {
			return lease{got[0], before, time.Now()}
		}
	}
	panic(failed{"nothing came within " + in.String()})
}

// expectRedelivery wants the message again after 10 s, not earlier, and not later than the slack allows.
func expectRedelivery(consumer rmq.SimpleConsumer, first lease, attempt int32) *rmq.MessageView {
	again := receiveOne(consumer, long, tooLate)
	longest, shortest := again.after.Sub(first.before), again.after.Sub(first.after)
	say("came again %v after the lease began", longest.Round(10*time.Millisecond))
	require(longest >= short, "came again after %v, before its %v were over", longest, short)
	require(shortest <= short+slack, "came again only after %v instead of %v", shortest, short)
	expectAttempt(again.message, attempt)
	return again.message
}

func expectAttempt(message *rmq.MessageView, attempt int32) {
	require(message.GetDeliveryAttempt() == attempt, "this delivery has attempt %d instead of %d", message.GetDeliveryAttempt(), attempt)
}

func simpleExpireRedeliver(run *Run) {
	topic, group := run.topic(), run.group("group")
	sendAll(run.producer(topic), topic, "expires")
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("receiving without an acknowledgement")
	first := receiveOne(consumer, short, 20*time.Second)
	expectAttempt(first.message, 1)
	run.step("waiting for the redelivery")
	check(ack(consumer, expectRedelivery(consumer, first, 2)))
	run.expectNoLag(group, topic)
}

func simpleChangeInvisible(run *Run) {
	topic, group := run.topic(), run.group("group")
	producer := run.producer(topic)
	consumer := run.simpleConsumer(group, topic, "*")
	sendAll(producer, topic, "changed and left")
	run.step("receiving with 30 s and changing to 10 s")
	first := receiveOne(consumer, long, 20*time.Second).message
	before := time.Now()
	check(consumer.ChangeInvisibleDuration(first, short))
	changed := lease{first, before, time.Now()}
	run.step("waiting for the redelivery")
	check(ack(consumer, expectRedelivery(consumer, changed, 2)))

	sendAll(producer, topic, "changed and acknowledged")
	run.step("acknowledging with the changed handle")
	second := receiveOne(consumer, long, 20*time.Second).message
	require(text(second) == "changed and acknowledged", "`%s` came again after its acknowledgement", text(second))
	original := second.GetReceiptHandle()
	check(consumer.ChangeInvisibleDuration(second, short))
	say("the change kept the receipt handle: %t", second.GetReceiptHandle() == original)
	check(ack(consumer, second))
	expectSilence(consumer, short+3*time.Second)
	run.expectNoLag(group, topic)
}

func simpleLateAck(run *Run) {
	topic, group := run.topic(), run.group("group")
	sendAll(run.producer(topic), topic, "late")
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("letting the invisible duration end")
	first := receiveOne(consumer, short, 20*time.Second)
	newer := receiveOne(consumer, short, tooLate)
	expectAttempt(newer.message, 2)
	run.step("acknowledging with the old handle")
	if !refused(consumer, first.message) {
		// Success is allowed when it changed nothing: then the message comes a third time.
		newer = receiveOne(consumer, long, tooLate)
		expectAttempt(newer.message, 3)
	}
	run.step("acknowledging the new delivery")
	check(ack(consumer, newer.message))
	expectSilence(consumer, short+3*time.Second)
	run.expectNoLag(group, topic)
}

func refused(consumer rmq.SimpleConsumer, message *rmq.MessageView) bool {
	err := ack(consumer, message)
	if err == nil {
		say("the late acknowledgement was answered with success")
		return false
	}
	_, answered := code(err)
	require(answered, "the late acknowledgement was not answered: %s", oneLine(err))
	say("the late acknowledgement was refused: %s", oneLine(err))
	return true
}
