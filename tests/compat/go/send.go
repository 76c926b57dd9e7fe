package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Producers: what is sent arrives, once and unchanged.

// Longer than a redelivery caused by a lost answer would need to show up, short enough for a scenario.
const quiet = 4 * time.Second

func sendSync(run *Run) {
	topic, group := run.topic(), run.group("group")
	run.step("sending 20 messages")
	producer := run.producer(topic)
	sent := make(map[string]*rmq.Message)
	for index := range 20 {
		out := richMessage(topic, index)
		id, err := send(producer, out)
		check(err)
		sent[id] = out
	}
	require(len(sent) == 20, "two receipts have the same message id")

	run.step("receiving 20 messages")
	consumer := run.simpleConsumer(group, topic, "*")
	for _, got := range collect(consumer, 20, 30*time.Second) {
		out := sent[got.GetMessageId()]
		require(out != nil, "`%s` has message id `%s`, which no receipt had or which came before", text(got), got.GetMessageId())
		delete(sent, got.GetMessageId())
		expectEqual(out, got)
	}
	run.step("expecting nothing else")
	expectSilence(consumer, quiet)
}

func richMessage(topic string, index int) *rmq.Message {
	out := &rmq.Message{Topic: topic, Body: fmt.Appendf(nil, "body %d – ünïcode", index)}
	out.SetTag(fmt.Sprintf("tag-%d", index%3))
	out.SetKeys(fmt.Sprintf("key-%d", index), fmt.Sprintf("order-%d", index))
	out.AddProperty("plain", fmt.Sprintf("value %d", index))
	out.AddProperty("number", fmt.Sprint(index))
	out.AddProperty("non-ascii", fmt.Sprintf("größe 测试 %d", index))
	return out
}

// expectEqual cannot ask whether the client found the digest wrong: it keeps that to itself. The bodies are compared instead.
func expectEqual(out *rmq.Message, got *rmq.MessageView) {
	require(got.GetTopic() == out.Topic, "topic was sent as `%s` and received as `%s`", out.Topic, got.GetTopic())
	require(bytes.Equal(got.GetBody(), out.Body), "body was sent as `%s` and received as `%s`", out.Body, got.GetBody())
	require(got.GetTag() != nil, "the tag is missing")
	require(*got.GetTag() == *out.GetTag(), "tag was sent as `%s` and received as `%s`", *out.GetTag(), *got.GetTag())
	require(slices.Equal(got.GetKeys(), out.GetKeys()), "keys were sent as %q and received as %q", out.GetKeys(), got.GetKeys())
	require(maps.Equal(got.GetProperties(), out.GetProperties()), "properties were sent as %q and received as %q", out.GetProperties(), got.GetProperties())
	require(got.GetDeliveryAttempt() == 1, "the first delivery has attempt %d", got.GetDeliveryAttempt())
	require(got.GetBornTimestamp() != nil && *got.GetBornHost() != "", "born timestamp or born host is missing")
}

func sendAsync(run *Run) {
	topic, group := run.topic(), run.group("group")
	producer := run.producer(topic)
	bodies := numbered("async", 100)
	run.step("sending 100 messages at the same time")
	type result struct {
		receipts []*rmq.SendReceipt
		err      error
	}
	results := make(chan result, len(bodies))
	for _, body := range bodies {
		producer.SendAsync(context.Background(), &rmq.Message{Topic: topic, Body: []byte(body)},
			func(_ context.Context, receipts []*rmq.SendReceipt, err error) { results <- result{receipts, err} })
	}
	ids := make(map[string]bool)
	for range bodies {
		select {
		case result := <-results:
			check(result.err)
			require(len(result.receipts) == 1 && result.receipts[0].MessageID != "", "one message was sent and the receipts are %v", result.receipts)
			ids[result.receipts[0].MessageID] = true
		case <-time.After(30 * time.Second):
			require(false, "a send was not answered within 30 s")
		}
	}
	require(len(ids) == 100, "100 sends gave %d different message ids", len(ids))
	say("all sends acknowledged")
	run.step("receiving 100 messages")
	consumer := run.simpleConsumer(group, topic, "*")
	expectOnce(texts(collect(consumer, 100, 40*time.Second)), bodies)
	expectSilence(consumer, quiet)
}
