package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

// What most scenarios do with messages: send them, collect them, compare what came with what was sent.

const (
	// Long enough that nothing of a scenario comes again by itself.
	long  = 30 * time.Second
	batch = 16
)

func send(producer rmq.Producer, message *rmq.Message) (string, error) {
	receipts, err := producer.Send(context.Background(), message)
	if err != nil {
		return "", err
	}
	if len(receipts) != 1 || receipts[0].MessageID == "" {
		return "", fmt.Errorf("one message was sent and the receipts are %v", receipts)
	}
	return receipts[0].MessageID, nil
}

func sendAll(producer rmq.Producer, topic string, bodies ...string) {
	for _, body := range bodies {
		_, err := send(producer, &rmq.Message{Topic: topic, Body: []byte(body)})
		check(err)
	}
}

func numbered(name string, count int) []string {
	bodies := make([]string, count)
	for index := range bodies {
		bodies[index] = fmt.Sprintf("%s %d", name, index)
	}
	return bodies
}

func text(message *rmq.MessageView) string { return string(message.GetBody()) }

func texts(messages []*rmq.MessageView) []string {
	bodies := make([]string, len(messages))
	for index, message := range messages {
		bodies[index] = text(message)
	}
	return bodies
}

// receive makes an empty list of the answer that the client treats as an error: nothing came in time.
func receive(consumer rmq.SimpleConsumer, most int, invisible time.Duration) ([]*rmq.MessageView, error) {
	got, err := consumer.Receive(context.Background(), int32(most), invisible)
	if err != nil {
		if code, answered := code(err); answered && code == v2.Code_MESSAGE_NOT_FOUND {
			return nil, nil
		}
		return nil, err
	}
	require(len(got) <= most, "asked for at most %d messages and got %d", most, len(got))
	return got, nil
}

// collect receives and acknowledges until `wanted` messages have come; fails when the time is over.
func collect(consumer rmq.SimpleConsumer, wanted int, in time.Duration) []*rmq.MessageView {
	return collectBatches(consumer, wanted, in, long, batch)
}

func collectBatches(consumer rmq.SimpleConsumer, wanted int, in, invisible time.Duration, batch int) []*rmq.MessageView {
	return gather(consumer, wanted, in, invisible, batch, func(message *rmq.MessageView) { check(ack(consumer, message)) })
}

// take is collect without acknowledgements.
func take(consumer rmq.SimpleConsumer, wanted int, in, invisible time.Duration) []*rmq.MessageView {
	return gather(consumer, wanted, in, invisible, batch, func(*rmq.MessageView) {})
}

func gather(consumer rmq.SimpleConsumer, wanted int, in, invisible time.Duration, batch int, each func(*rmq.MessageView)) []*rmq.MessageView {
	var all []*rmq.MessageView
	waiting := newDeadline(in)
	for len(all) < wanted {
		require(!waiting.over(), "received %d of %d messages within %v", len(all), wanted, in)
		got, err := receive(consumer, min(batch, wanted-len(all)), invisible)
		check(err)
		for _, message := range got {
			each(message)
		}
		all = append(all, got...)
	}
	return all
}

// expectSilence receives for so long; any delivery is a failure.
func expectSilence(consumer rmq.SimpleConsumer, in time.Duration) {
	check(silence(consumer, in))
}

// silence is expectSilence for consumers whose calls may fail.
func silence(consumer rmq.SimpleConsumer, in time.Duration) error {
	for waiting := newDeadline(in); !waiting.over(); {
		got, err := receive(consumer, batch, long)
		if err != nil {
			return err
		}
		for _, message := range got {
			require(false, "`%.60s` came again with attempt %d", text(message), message.GetDeliveryAttempt())
		}
	}
	return nil
}

// expectOnce wants exactly the expected bodies, each once.
func expectOnce(bodies, expected []string) {
	came := make(map[string]int)
	for _, body := range bodies {
		came[body]++
	}
	var twice, missing, foreign []string
	for _, body := range expected {
		if came[body] == 0 {
			missing = append(missing, body)
		}
	}
	for body, times := range came {
		if times > 1 {
			twice = append(twice, body)
		}
		if !slices.Contains(expected, body) {
			foreign = append(foreign, body)
		}
	}
	require(len(twice) == 0, "delivered more than once: %q", few(twice))
	require(len(missing) == 0, "%d of %d not delivered: %q", len(missing), len(expected), few(missing))
	require(len(foreign) == 0, "delivered but not expected: %q", few(foreign))
}

func few(many []string) []string { return many[:min(5, len(many))] }
