package main

import (
	"context"
	"fmt"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// What makes a message, a topic or a group the same one: message ids, namespaces. And what belongs to a message: its trace context.

// dedup loses the answer of the first send on its way: the client then sends the same message with the same id again, by itself.
func dedup(run *Run) {
	for _, kind := range []string{"NORMAL", "FIFO"} {
		topic, group := run.topicNamed("topic-"+kind, "type="+kind), run.group("group-"+kind, retryQuickly)
		producer := run.producer(topic)
		run.step("sending with a lost answer to a topic of type " + kind)
		message := &rmq.Message{Topic: topic, Body: []byte("once")}
		if kind == "FIFO" {
			message.SetMessageGroup("lane")
		}
		sends.loseNextAnswer()
		id, err := send(producer, message)
		check(err)
		called := sends.calledWith()
		require(len(called) == 2 && called[0] == called[1], "the client sent messages %q instead of one twice", called)
		require(id == called[0], "the message was sent as `%s`, and the receipt says `%s`", called[0], id)
		consumer := run.simpleConsumer(group, topic, "*")
		expectOnce(texts(collect(consumer, 1, 15*time.Second)), []string{"once"})
		expectSilence(consumer, quiet)
		run.expectNoLag(group, topic)
	}
}

// traceContext is put in by what instruments the connection: the client shows a message's trace context and has no call to set it.
func traceContext(run *Run) {
	topic, group := run.topic(), run.group("group")
	traced := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01;größe 测试"
	sends.traceWith(traced)
	sendAll(run.producer(topic), topic, "traced")
	got := collect(run.simpleConsumer(group, topic, "*"), 1, 15*time.Second)[0]
	require(got.GetTraceContext() != nil, "the trace context is missing")
	require(*got.GetTraceContext() == traced, "the trace context was `%s` and came as `%s`", traced, *got.GetTraceContext())
	run.expectNoLag(group, topic)
}

func namespace(run *Run) {
	spaces := []string{"left-" + run.id, "right-" + run.id}
	topic, group := run.name("topic"), run.name("group")
	for _, space := range spaces {
		run.ask("topic %s type=NORMAL namespace=%s", topic, space)
		run.ask("group %s start=earliest namespace=%s", group, space)
	}
	run.step("sending to the same topic name in two namespaces")
	for _, space := range spaces {
		producer := run.producerIn(space, topic)
		for _, body := range numbered(space, 10) {
			_, err := producer.Send(context.Background(), &rmq.Message{Topic: topic, Body: []byte(body)})
			check(err)
		}
	}
	run.step("receiving with the same group name in two namespaces")
	for _, space := range spaces {
		consumer, err := run.trySimpleConsumerIn(space, group, topic, rmq.SUB_ALL)
		check(err)
		expectOnce(texts(collect(consumer, 10, 15*time.Second)), numbered(space, 10))
		expectSilence(consumer, 3*time.Second)
	}
	for _, space := range spaces {
		run.expectNoLag(group, topic, fmt.Sprintf("namespace=%s", space))
	}
}
