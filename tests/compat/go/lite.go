package main

import (
	"fmt"
	"slices"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Lite topics: a client gets those that it subscribed to, each in order. This client has a push consumer for them and no simple one.

const (
	liteLength = 30
	liteLater  = 5
)

var liteTopics = []string{"one", "two", "three"}

func lite(run *Run) {
	topic := run.topic("type=LITE")
	playLite(run, topic, run.group("push", "lite="+topic, retryQuickly), false)
}

func liteHeir(run *Run) {
	playLite(run, run.nameIn("lite", "topic"), run.nameIn("lite", "push"), true)
}

func playLite(run *Run, topic, group string, harsh bool) {
	ledger := newLedger(run)
	run.step("subscribing to two of three")
	consumer := run.litePushConsumer(group, topic, ledger.inbox("push"))
	for _, name := range liteTopics[:2] {
		check(consumer.SubscribeLite(name))
	}
	producer := run.producer(topic)
	sending := newTask(func(*Task) { sendLites(producer, topic, ledger) })
	total := 2 * liteLength
	run.step("sending and receiving until the middle")
	waitUntil(func() bool { return ledger.least("push") > total/4 }, ledger.wait(total, "before the middle", "push"), 30*time.Second, sending)
	harsh = run.middle("lite-heir") || harsh
	run.step("sending and receiving the rest")
	waitUntil(func() bool { return ledger.least("push") >= total }, ledger.wait(total, "at the end", "push"), 90*time.Second, sending)
	sending.end()
	run.step("unsubscribing from one of the two")
	check(consumer.UnSubscribeLite(liteTopics[1]))
	for number := liteLength; number < liteLength+liteLater; number++ {
		for _, name := range liteTopics {
			sendLite(producer, topic, name, number)
		}
	}
	total += liteLater
	waitUntil(func() bool { return ledger.least("push") >= total }, ledger.wait(total, "after unsubscribing", "push"), 20*time.Second)
	time.Sleep(3 * time.Second)
	ledger.expectInOrder("push", liteTopics[0], liteLength+liteLater, !harsh)
	ledger.expectInOrder("push", liteTopics[1], liteLength, !harsh)
	require(len(ledger.numbers("push", liteTopics[2])) == 0, "messages of a lite topic came that was never subscribed to")
}

func sendLite(producer rmq.Producer, topic, name string, number int) {
	message := &rmq.Message{Topic: topic, Body: fmt.Appendf(nil, "%s %d", name, number)}
	message.SetLiteTopic(name)
	sendSurely(producer, message)
}

func sendLites(producer rmq.Producer, topic string, ledger *Ledger) {
	for number := range liteLength {
		for _, name := range liteTopics {
			if slices.Contains(ledger.numbers("sent", name), number) {
				continue
			}
			sendLite(producer, topic, name, number)
			ledger.add("sent", fmt.Sprintf("%s %d", name, number))
			time.Sleep(10 * time.Millisecond)
		}
	}
}
