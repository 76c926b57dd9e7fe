package main

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limits and refusals: sizes, empty bodies, illegal names. Afterwards the server still serves.

const largestBody = 4 * 1024 * 1024

// expectRefused wants a refusal: by the client's own check of the size, its only one, or by the server with one of the codes.
func expectRefused(what string, err error, allowed ...v2.Code) {
	require(err != nil, "%s: accepted", what)
	if code, answered := code(err); answered {
		require(slices.Contains(allowed, code), "%s: refused with %v instead of %v: %s", what, code, allowed, oneLine(err))
		say("%s: refused by the server: %s", what, oneLine(err))
		return
	}
	if status.Code(err) == codes.InvalidArgument {
		// The protocol refuses settings with this gRPC status.
		say("%s: refused by the server when the client started: %s", what, oneLine(err))
		return
	}
	require(strings.Contains(err.Error(), "body size exceeds the threshold"), "%s: neither refused nor accepted: %s", what, oneLine(err))
	say("%s: refused by the client itself: %s", what, oneLine(err))
}

// expectWell checks that the server still takes and delivers a message, and delivers nothing of what was refused.
func expectWell(run *Run, producer rmq.Producer, topic, group string) {
	run.step("checking that the server is well")
	sendAll(producer, topic, "still well")
	consumer := run.simpleConsumer(group, topic, "*")
	expectOnce(texts(collect(consumer, 1, 15*time.Second)), []string{"still well"})
	expectSilence(consumer, 3*time.Second)
}

// pattern is a body that differs everywhere, so that a lost or swapped piece shows.
func pattern(size int) []byte {
	body := make([]byte, size)
	for at := 0; at+4 <= size; at += 4 {
		binary.BigEndian.PutUint32(body[at:], uint32(at))
	}
	return body
}

func body4m(run *Run) {
	topic, group := run.topic(), run.group("group")
	largest := pattern(largestBody)
	run.step("sending 4 MiB")
	_, err := send(run.producer(topic), &rmq.Message{Topic: topic, Body: largest})
	check(err)
	run.step("receiving 4 MiB")
	got := collect(run.simpleConsumer(group, topic, "*"), 1, 20*time.Second)[0].GetBody()
	require(bytes.Equal(largest, got), "sent %d bytes and received %d different ones", len(largest), len(got))
}

func bodyTooBig(run *Run) {
	topic, group := run.topic(), run.group("group")
	producer := run.producer(topic)
	run.step("sending 4 MiB + 1 byte")
	_, err := send(producer, &rmq.Message{Topic: topic, Body: pattern(largestBody + 1)})
	expectRefused("body of 4 MiB + 1", err, v2.Code_MESSAGE_BODY_TOO_LARGE)
	expectWell(run, producer, topic, group)
}

func bodyEmpty(run *Run) {
	topic, group := run.topic(), run.group("group")
	producer := run.producer(topic)
	run.step("sending an empty body")
	_, err := send(producer, &rmq.Message{Topic: topic})
	expectRefused("empty body", err, v2.Code_MESSAGE_BODY_EMPTY)
	expectWell(run, producer, topic, group)
}

func illegalNames(run *Run) {
	topic, group := run.topic(), run.group("group")
	producer := run.producer(topic)
	run.step("sending with illegal names")
	for _, one := range []struct {
		what    string
		allowed v2.Code
		spoil   func(*rmq.Message)
	}{
		{"topic with a space", v2.Code_ILLEGAL_TOPIC, func(out *rmq.Message) { out.Topic = "bad topic" }},
		{"topic of 128 characters", v2.Code_ILLEGAL_TOPIC, func(out *rmq.Message) { out.Topic = strings.Repeat("t", 128) }},
		{"system topic", v2.Code_ILLEGAL_TOPIC, func(out *rmq.Message) { out.Topic = "TBW102" }},
		{"tag with a bar", v2.Code_ILLEGAL_MESSAGE_TAG, func(out *rmq.Message) { out.SetTag("a|b") }},
		{"blank tag", v2.Code_ILLEGAL_MESSAGE_TAG, func(out *rmq.Message) { out.SetTag("  ") }},
		{"blank key", v2.Code_ILLEGAL_MESSAGE_KEY, func(out *rmq.Message) { out.SetKeys("  ") }},
		{"reserved property", v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, func(out *rmq.Message) { out.AddProperty("TAGS", "x") }},
		{"property key with a control character", v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, func(out *rmq.Message) { out.AddProperty("a\u0001b", "x") }},
	} {
		out := &rmq.Message{Topic: topic, Body: []byte("never stored")}
		one.spoil(out)
		_, err := send(producer, out)
		expectRefused(one.what, err, one.allowed)
	}
	run.step("receiving with illegal groups")
	expectRefused("group with a space", receiveAs(run, "bad group", topic), v2.Code_ILLEGAL_CONSUMER_GROUP)
	expectRefused("group of 121 characters", receiveAs(run, strings.Repeat("g", 121), topic), v2.Code_ILLEGAL_CONSUMER_GROUP)
	expectWell(run, producer, topic, group)
}

// receiveAs returns what the start of the consumer or its first receive was refused with.
func receiveAs(run *Run, group, topic string) error {
	consumer, err := run.trySimpleConsumer(group, topic, "*")
	if err != nil {
		return err
	}
	_, err = receive(consumer, 1, short)
	return err
}

func unknownTopic(run *Run) {
	topic, group := run.name("fresh"), run.name("group")
	run.step("sending to a topic nobody created")
	producer := run.producer(topic)
	sendAll(producer, topic, "first use")
	run.step("receiving with a group nobody created")
	consumer := run.simpleConsumer(group, topic, "*")
	expectOnce(texts(collect(consumer, 1, 20*time.Second)), []string{"first use"})
	run.step("sending to a topic that must not be created")
	_, err := send(producer, &rmq.Message{Topic: "%illegal%", Body: []byte("x")})
	// Not found, illegal or forbidden: the name is well formed, but only the server makes such topics.
	expectRefused("topic `%illegal%`", err, v2.Code_TOPIC_NOT_FOUND, v2.Code_ILLEGAL_TOPIC, v2.Code_FORBIDDEN)
	expectSilence(consumer, 3*time.Second)
}
