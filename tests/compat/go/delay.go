package main

import (
	"context"
	"fmt"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Delayed messages: never early, soon when due, and gone when recalled in time.

const (
	mostEarly = 50 * time.Millisecond
	mostLate  = 10 * time.Second
	// After a kill the client needs a moment to connect again before it can be on time.
	recovery = 6 * time.Second
	delayed  = 5
)

// due is when a lane's messages are due, to the millisecond: the lane's name and the notes carry no more.
func due(in time.Duration) time.Time { return time.Now().Add(in).Truncate(time.Millisecond) }

func delay(run *Run) {
	topic, group := run.topic("type=DELAY"), run.group("group")
	consumer, producer := run.simpleConsumer(group, topic, "*"), run.producer(topic)
	ledger := newLedger(run)
	run.step("sending")
	dues := map[string]time.Time{"past": due(-time.Minute), "soon": due(2 * time.Second), "later": due(5 * time.Second)}
	for lane, at := range dues {
		for _, body := range numbered(lane, delayed) {
			message := &rmq.Message{Topic: topic, Body: []byte(body)}
			message.SetDelayTimestamp(at)
			_, err := send(producer, message)
			check(err)
		}
		// So that an heir knows as well.
		run.note("due %s %d", lane, at.UnixMilli())
	}
	ready := time.Now()
	restarted := run.middle("delay-heir")
	if restarted {
		ready = time.Now().Add(recovery)
	}
	receiveOnTime(run, consumer, group, topic, ledger, dues, ready, !restarted)
}

func delayHeir(run *Run) {
	topic, group := run.nameIn("delay", "topic"), run.nameIn("delay", "group")
	ledger := newLedger(run)
	dues := make(map[string]time.Time)
	for _, lane := range []string{"past", "soon", "later"} {
		dues[lane] = time.UnixMilli(int64(ledger.numbers("due", lane)[0]))
	}
	receiveOnTime(run, run.simpleConsumer(group, topic, "*"), group, topic, ledger, dues, time.Now().Add(recovery), false)
}

// receiveOnTime takes nothing for late that comes before `ready`.
func receiveOnTime(run *Run, consumer rmq.SimpleConsumer, group, topic string, ledger *Ledger, dues map[string]time.Time, ready time.Time, once bool) {
	run.step("receiving")
	worst := time.Duration(0)
	for waiting := newDeadline(40 * time.Second); len(ledger.firsts("got")) < delayed*len(dues); {
		require(!waiting.over(), "%d of %d messages within 40 s", len(ledger.firsts("got")), delayed*len(dues))
		for _, message := range receiveSurely(consumer, batch, short) {
			at, lane := time.Now(), entry("got", text(message)).lane
			carried := message.GetDeliveryTimestamp()
			require(carried != nil && carried.Equal(dues[lane]), "`%s` carries the delivery timestamp %v instead of %v", text(message), carried, dues[lane])
			require(at.After(dues[lane].Add(-mostEarly)), "`%s` came %v early", text(message), dues[lane].Sub(at))
			late := min(at.Sub(dues[lane]), at.Sub(ready))
			worst = max(worst, late)
			require(late <= mostLate, "`%s` came %v late", text(message), late)
			ledger.add("got", text(message))
			check(ack(consumer, message))
		}
	}
	say("the latest came %v after it was due", worst)
	run.step("expecting nothing else")
	if once {
		expectSilence(consumer, 3*time.Second)
	} else {
		expectSilence(consumer, short+2*time.Second)
	}
	for lane := range dues {
		ledger.expectAll("got", lane, delayed, once)
	}
	run.expectNoLag(group, topic)
}

func delayRecall(run *Run) {
	topic, group := run.topic("type=DELAY"), run.group("group")
	consumer, producer := run.simpleConsumer(group, topic, "*"), run.producer(topic)
	run.step("recalling before the time")
	at := due(6 * time.Second)
	receipt := sendDelayed(producer, topic, "recalled", at)
	recalled, err := producer.Recall(context.Background(), topic, receipt.RecallHandle)
	check(err)
	require(recalled == receipt.MessageID, "the recall answered message id `%s` instead of `%s`", recalled, receipt.MessageID)
	run.step("expecting that it never comes")
	expectSilence(consumer, time.Until(at)+4*time.Second)

	run.step("recalling after the delivery")
	late := sendDelayed(producer, topic, "delivered", due(time.Second))
	expectOnce(texts(collect(consumer, 1, 10*time.Second)), []string{"delivered"})
	recalled, err = producer.Recall(context.Background(), topic, late.RecallHandle)
	require(err != nil, "the late recall was answered with message id `%s`", recalled)
	_, answered := code(err)
	require(answered, "the late recall was not answered: %s", fmt.Sprint(err))
	say("the late recall was refused: %s", oneLine(err))
	run.expectNoLag(group, topic)
}

func sendDelayed(producer rmq.Producer, topic, body string, at time.Time) *rmq.SendReceipt {
	message := &rmq.Message{Topic: topic, Body: []byte(body)}
	message.SetDelayTimestamp(at)
	receipts, err := producer.Send(context.Background(), message)
	check(err)
	require(len(receipts) == 1 && receipts[0].RecallHandle != "", "the receipt of a delayed message has no recall handle: %v", receipts)
	return receipts[0]
}
