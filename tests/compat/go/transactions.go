package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Transactional messages: seen when committed, once; never when rolled back; and the producer is asked when it forgot.

// askedIn is generous: the server first asks 6 s after the send.
const askedIn = 12 * time.Second

// Checker remembers what it was asked and always says the same.
type Checker struct {
	answer rmq.TransactionResolution

	mutex sync.Mutex
	came  []*rmq.MessageView
}

func (checker *Checker) option() rmq.ProducerOption {
	return rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: func(message *rmq.MessageView) rmq.TransactionResolution {
		say("the checker is asked about `%s`", text(message))
		checker.mutex.Lock()
		defer checker.mutex.Unlock()
		checker.came = append(checker.came, message)
		return checker.answer
	}})
}

func (checker *Checker) asked() []*rmq.MessageView {
	checker.mutex.Lock()
	defer checker.mutex.Unlock()
	return slices.Clone(checker.came)
}

func (checker *Checker) askedAbout() []string {
	return slices.Compact(slices.Sorted(slices.Values(texts(checker.asked()))))
}

func half(topic, body string) *rmq.Message {
	message := &rmq.Message{Topic: topic, Body: []byte(body)}
	message.SetTag("half")
	message.SetKeys("key of " + body)
	message.AddProperty("what", "a half message")
	return message
}

func expectHalf(got *rmq.MessageView, topic string) {
	out := half(topic, text(got))
	require(got.GetTopic() == topic, "topic was `%s` and came as `%s`", topic, got.GetTopic())
	require(bytes.Equal(got.GetBody(), out.Body), "body was `%s` and came as `%s`", out.Body, got.GetBody())
	require(got.GetTag() != nil && *got.GetTag() == *out.GetTag(), "the tag of `%s` is missing or different", text(got))
	require(slices.Equal(got.GetKeys(), out.GetKeys()), "keys were %q and came as %q", out.GetKeys(), got.GetKeys())
	require(maps.Equal(got.GetProperties(), out.GetProperties()), "properties were %q and came as %q", out.GetProperties(), got.GetProperties())
}

func sendHalf(producer rmq.Producer, topic, body string) (rmq.Transaction, *rmq.SendReceipt) {
	transaction := producer.BeginTransaction()
	receipts, err := producer.SendWithTransaction(context.Background(), half(topic, body), transaction)
	check(err)
	require(len(receipts) == 1 && receipts[0].TransactionId != "", "the receipt of `%s` has no transaction id: %v", body, receipts)
	return transaction, receipts[0]
}

func txnCommit(run *Run) {
	topic, group := run.topic("type=TRANSACTION"), run.group("group")
	consumer := run.simpleConsumer(group, topic, "*")
	checker := &Checker{answer: rmq.COMMIT}
	transaction, receipt := sendHalf(run.producer(topic, checker.option()), topic, "committed")
	run.step("expecting nothing before the commit")
	// Shorter than until the first check, which would commit.
	expectSilence(consumer, 2*time.Second)
	run.step("committing")
	check(transaction.Commit())
	got := collect(consumer, 1, 10*time.Second)[0]
	require(text(got) == "committed", "`%s` came", text(got))
	expectHalf(got, topic)
	require(got.GetMessageId() == receipt.MessageID, "it was sent as `%s` and came as `%s`", receipt.MessageID, got.GetMessageId())
	run.step("expecting nothing else, also when a check would be due")
	expectSilence(consumer, 9*time.Second)
	require(len(checker.asked()) == 0, "the checker was asked about a transaction that was committed")
	run.expectNoLag(group, topic)
}

func txnRollback(run *Run) {
	topic, group := run.topic("type=TRANSACTION"), run.group("group")
	consumer := run.simpleConsumer(group, topic, "*")
	checker := &Checker{answer: rmq.COMMIT}
	transaction, _ := sendHalf(run.producer(topic, checker.option()), topic, "rolled back")
	run.step("rolling back")
	check(transaction.RollBack())
	run.step("expecting nothing, also when a check would be due")
	expectSilence(consumer, 12*time.Second)
	require(len(checker.asked()) == 0, "the checker was asked about a transaction that was rolled back")
	run.expectNoLag(group, topic)
}

func txnCheck(run *Run) {
	topic, group := run.topic("type=TRANSACTION"), run.group("group")
	checker := &Checker{answer: rmq.COMMIT}
	producer, consumer := run.producer(topic, checker.option()), run.simpleConsumer(group, topic, "*")
	for _, body := range numbered("open", 3) {
		sendHalf(producer, topic, body)
	}
	restarted := run.middle("txn-check-heir")
	if restarted {
		// This client opens the stream on which it is asked again only with its next settings, minutes later.
		run.step("starting a second producer after the restart")
		run.producer(topic, checker.option())
	}
	expectAsked(run, topic, group, consumer, checker, restarted)
}

func txnCheckOther(run *Run) {
	topic := run.topic("type=TRANSACTION")
	run.group("group")
	undecided := &Checker{answer: rmq.UNKNOWN}
	producer := run.producer(topic, undecided.option())
	for _, body := range numbered("open", 3) {
		sendHalf(producer, topic, body)
	}
	run.step("asking to be killed")
	run.ask("kill-me txn-check-other-heir")
	panic(failed{"the runner answered `kill-me` instead of killing this program"})
}

// inherit is the life after the sender's: its topic has another producer, which is asked.
func inherit(run *Run, scenario string) {
	topic, group := run.nameIn(scenario, "topic"), run.nameIn(scenario, "group")
	checker := &Checker{answer: rmq.COMMIT}
	run.producer(topic, checker.option())
	expectAsked(run, topic, group, run.simpleConsumer(group, topic, "*"), checker, false)
}

func expectAsked(run *Run, topic, group string, consumer rmq.SimpleConsumer, checker *Checker, restarted bool) {
	run.step("waiting for the checker to be asked")
	began, patience, bodies := time.Now(), askedIn, numbered("open", 3)
	if restarted {
		patience += 35 * time.Second
	}
	about := func() string { return fmt.Sprintf("asked about %q", checker.askedAbout()) }
	waitUntil(func() bool { return slices.Equal(checker.askedAbout(), bodies) }, about, patience)
	say("asked after %v", time.Since(began).Round(100*time.Millisecond))
	for _, message := range checker.asked() {
		expectHalf(message, topic)
	}
	run.step("receiving what the checker committed")
	var got []*rmq.MessageView
	for waiting := newDeadline(15 * time.Second); len(got) < len(bodies); {
		require(!waiting.over(), "received %q within 15 s", texts(got))
		for _, message := range receiveSurely(consumer, batch, long) {
			expectHalf(message, topic)
			got = append(got, message)
			ackSurely(consumer, message)
		}
	}
	expectOnce(texts(got), bodies)
	expectSilence(consumer, quiet)
	run.expectNoLag(group, topic)
}
