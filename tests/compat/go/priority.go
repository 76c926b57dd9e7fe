package main

import (
	"fmt"
	"slices"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Priority: of what waits, the highest comes first.

const eachPriority = 10

var priorities = []int32{0, 4, 9}

func priority(run *Run) {
	topic, group := run.topic("type=PRIORITY"), run.group("group")
	producer := run.producer(topic)
	run.step("sending all priorities mixed, before there is a consumer")
	for number := range eachPriority {
		for _, level := range priorities {
			message := &rmq.Message{Topic: topic, Body: fmt.Appendf(nil, "p%d %d", level, number)}
			check(message.SetPriority(level))
			_, err := send(producer, message)
			check(err)
		}
	}
	ledger := newLedger(run)
	consumer := run.simpleConsumer(group, topic, "*")
	run.step("receiving half, one at a time")
	receiveSingly(consumer, ledger, len(priorities)*eachPriority/2)
	restarted := run.middle("priority-heir")
	receiveByPriority(run, consumer, group, topic, ledger, !restarted)
}

func priorityHeir(run *Run) {
	topic, group := run.nameIn("priority", "topic"), run.nameIn("priority", "group")
	receiveByPriority(run, run.simpleConsumer(group, topic, "*"), group, topic, newLedger(run), false)
}

func receiveSingly(consumer rmq.SimpleConsumer, ledger *Ledger, wanted int) {
	for waiting := newDeadline(40 * time.Second); len(ledger.firsts("got")) < wanted; {
		require(!waiting.over(), "%d of %d messages within 40 s", len(ledger.firsts("got")), wanted)
		for _, message := range receiveSurely(consumer, 1, short) {
			ledger.add("got", text(message))
			ackSurely(consumer, message)
		}
	}
}

func receiveByPriority(run *Run, consumer rmq.SimpleConsumer, group, topic string, ledger *Ledger, once bool) {
	run.step("receiving the rest, one at a time")
	receiveSingly(consumer, ledger, len(priorities)*eachPriority)
	var came, expected []string
	for _, one := range ledger.firsts("got") {
		came = append(came, one.lane)
	}
	for _, level := range slices.Backward(priorities) {
		expected = append(expected, slices.Repeat([]string{fmt.Sprintf("p%d", level)}, eachPriority)...)
	}
	require(slices.Equal(came, expected), "the priorities came in the order %v", came)
	run.step("expecting nothing else")
	if once {
		expectSilence(consumer, 3*time.Second)
	} else {
		expectSilence(consumer, short+2*time.Second)
	}
	for _, level := range priorities {
		ledger.expectAll("got", fmt.Sprintf("p%d", level), eachPriority, once)
	}
	run.expectNoLag(group, topic)
}
