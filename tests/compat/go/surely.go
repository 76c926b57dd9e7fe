package main

import (
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

// Calls for scenarios in which the server is away for a moment: they go on until there is an answer.

const pause = 200 * time.Millisecond

// sendSurely sends until the message is acknowledged.
func sendSurely(producer rmq.Producer, message *rmq.Message) {
	for waiting := newDeadline(30 * time.Second); ; time.Sleep(pause) {
		_, err := send(producer, message)
		if err == nil {
			return
		}
		require(!final(err), "a send was refused: %s", oneLine(err))
		require(!waiting.over(), "no send was acknowledged within 30 s: %s", oneLine(err))
		say("a send failed and is repeated: %s", oneLine(err))
	}
}

// ackSurely tells whether the acknowledgement was accepted; after a restart a handle may have ended.
func ackSurely(consumer rmq.SimpleConsumer, message *rmq.MessageView) bool {
	for waiting := newDeadline(20 * time.Second); ; time.Sleep(pause) {
		err := ack(consumer, message)
		if err == nil {
			return true
		}
		if final(err) {
			say("an acknowledgement was refused: %s", oneLine(err))
			return false
		}
		require(!waiting.over(), "no acknowledgement got through within 20 s: %s", oneLine(err))
	}
}

// receiveSurely takes a call that breaks for one that brought nothing.
func receiveSurely(consumer rmq.SimpleConsumer, most int, invisible time.Duration) []*rmq.MessageView {
	got, err := receive(consumer, most, invisible)
	if err != nil {
		require(!final(err), "a receive was refused: %s", oneLine(err))
		say("a receive broke: %s", oneLine(err))
		time.Sleep(pause)
	}
	return got
}

// final tells whether the server answered and said something that will not change by itself.
func final(err error) bool {
	code, answered := code(err)
	refused := code >= v2.Code_BAD_REQUEST && code < v2.Code_INTERNAL_ERROR && code != v2.Code_TOO_MANY_REQUESTS
	return answered && (refused || code == v2.Code_NOT_IMPLEMENTED)
}
