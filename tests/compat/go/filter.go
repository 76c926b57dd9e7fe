package main

import (
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Tag expressions: exactly the matching messages, and nothing left over.

func tagFilter(run *Run) {
	topic := run.topic()
	all := []string{"A", "B", "C", "AB"}
	cases := []struct {
		group, expression string
		tags              []string
	}{
		{run.group("just-a"), "A", []string{"A"}},
		{run.group("a-or-b"), "A || B", []string{"A", "B"}},
		{run.group("all"), "*", all},
	}
	run.step("sending 40 messages with four tags")
	producer := run.producer(topic)
	for _, tag := range all {
		for _, body := range numbered(tag, 10) {
			_, err := send(producer, &rmq.Message{Topic: topic, Body: []byte(body), Tag: &tag})
			check(err)
		}
	}
	run.step("receiving with three expressions")
	for _, one := range cases {
		var expected []string
		for _, tag := range one.tags {
			expected = append(expected, numbered(tag, 10)...)
		}
		consumer := run.simpleConsumer(one.group, topic, one.expression)
		expectOnce(texts(collect(consumer, len(expected), 20*time.Second)), expected)
		expectSilence(consumer, quiet)
	}
	run.step("expecting no lag")
	for _, one := range cases {
		run.expectNoLag(one.group, topic)
	}
}
