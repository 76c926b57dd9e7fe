package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// FIFO: each message group in order, whatever fails.

const fifoLength = 40

// retryQuickly keeps the waits of the scenarios short.
const retryQuickly = "retry=1s,1s"

var (
	fifoLanes = []string{"lane-0", "lane-1", "lane-2", "lane-3", "lane-4"}
	fifoWho   = []string{"push", "simple"}
)

// sendInOrder takes the lane of a body for its message group.
func sendInOrder(producer rmq.Producer, topic string, bodies ...string) {
	for _, body := range bodies {
		message := &rmq.Message{Topic: topic, Body: []byte(body)}
		message.SetMessageGroup(strings.Fields(body)[0])
		sendSurely(producer, message)
	}
}

// ---- fifo-order

func fifoOrder(run *Run) {
	topic := run.topic("type=FIFO")
	playOrder(run, topic, map[string]string{"push": run.group("push", retryQuickly), "simple": run.group("simple", retryQuickly)}, false)
}

func fifoOrderHeir(run *Run) {
	groups := map[string]string{"push": run.nameIn("fifo-order", "push"), "simple": run.nameIn("fifo-order", "simple")}
	playOrder(run, run.nameIn("fifo-order", "topic"), groups, true)
}

func playOrder(run *Run, topic string, groups map[string]string, harsh bool) {
	ledger := newLedger(run)
	run.pushConsumer(groups["push"], topic, ledger.inbox("push"))
	consumer, producer := run.simpleConsumer(groups["simple"], topic, "*"), run.producer(topic)
	receiving := newTask(func(task *Task) { receiveAll(consumer, ledger, task) })
	sending := newTask(func(*Task) { sendFifo(producer, topic, ledger) })
	total := len(fifoLanes) * fifoLength
	run.step("sending and receiving until the middle")
	waitUntil(func() bool { return ledger.least(fifoWho...) > total/4 }, ledger.wait(total, "before the middle", fifoWho...), 40*time.Second, receiving, sending)
	harsh = run.middle("fifo-order-heir") || harsh
	run.step("sending and receiving the rest")
	waitUntil(func() bool { return ledger.least(fifoWho...) >= total }, ledger.wait(total, "at the end", fifoWho...), 90*time.Second, receiving, sending)
	sending.end()
	time.Sleep(2 * time.Second)
	receiving.stop()
	for _, who := range fifoWho {
		for _, lane := range fifoLanes {
			ledger.expectInOrder(who, lane, fifoLength, !harsh)
		}
		run.expectNoLag(groups[who], topic)
	}
}

// inbox consumes everything and takes it down. It takes longer for every other message: only if the client waits for it do they stay in order.
func (ledger *Ledger) inbox(who string) *Inbox {
	return &Inbox{decide: func(delivery Delivery) rmq.ConsumerResult {
		if entry(who, delivery.body).number%2 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		ledger.add(who, delivery.body)
		return rmq.SUCCESS
	}}
}

// sendFifo goes on after what is noted as sent. A send that was acknowledged but not noted is repeated.
func sendFifo(producer rmq.Producer, topic string, ledger *Ledger) {
	for number := range fifoLength {
		for _, lane := range fifoLanes {
			if slices.Contains(ledger.numbers("sent", lane), number) {
				continue
			}
			body := fmt.Sprintf("%s %d", lane, number)
			sendInOrder(producer, topic, body)
			ledger.add("sent", body)
		}
	}
}

func receiveAll(consumer rmq.SimpleConsumer, ledger *Ledger, task *Task) {
	for !task.over() {
		for _, message := range receiveSurely(consumer, batch, short) {
			ledger.add("simple", text(message))
			if !ackSurely(consumer, message) {
				// The rest of the batch may have been given to others; in order it comes again.
				break
			}
		}
	}
}

// ---- fifo-retry

var (
	sick = []string{"sick 1", "sick 2", "sick 3", "sick 4", "sick 5", "sick 6"}
	well = []string{"well 1", "well 2", "well 3", "well 4", "well 5", "well 6"}
)

// Trials is every delivery in order, and whether it succeeded.
type Trials struct {
	fails func(body string, earlier int) bool

	mutex sync.Mutex
	came  []string
	done  []string
}

// succeeds takes a delivery down and tells whether it succeeds.
func (trials *Trials) succeeds(body string) bool {
	trials.mutex.Lock()
	defer trials.mutex.Unlock()
	earlier := 0
	for _, came := range trials.came {
		if came == body {
			earlier++
		}
	}
	trials.came = append(trials.came, body)
	if trials.fails(body, earlier) {
		return false
	}
	trials.done = append(trials.done, body)
	return true
}

func (trials *Trials) succeeded() []string {
	trials.mutex.Lock()
	defer trials.mutex.Unlock()
	return slices.Clone(trials.done)
}

func (trials *Trials) of(lane string) []string {
	trials.mutex.Lock()
	defer trials.mutex.Unlock()
	return slices.DeleteFunc(slices.Clone(trials.came), func(body string) bool { return !strings.HasPrefix(body, lane+" ") })
}

func (trials *Trials) wait(wanted int) {
	waitUntil(func() bool { return len(trials.succeeded()) >= wanted }, func() string {
		return fmt.Sprintf("%d of %d succeeded: %q", len(trials.succeeded()), wanted, trials.succeeded())
	}, 30*time.Second)
}

// push gives the trials to two push consumers of the group, each with room for one message.
//
// When a listener fails, this client goes on with the next message of the batch at once, also when that is of the same message group, and
// repeats the failed one later. So only batches of one keep an order; and a client whose only place is taken by a message that waits to be
// repeated receives nothing else, so there are two.
func (trials *Trials) push(run *Run, group, topic string) {
	for range 2 {
		run.pushConsumer(group, topic, &Inbox{decide: func(delivery Delivery) rmq.ConsumerResult {
			if trials.succeeds(delivery.body) {
				return rmq.SUCCESS
			}
			return rmq.FAILURE
		}}, rmq.WithPushMaxCacheMessageCount(1))
	}
}

// simple gives the trials to a simple consumer, one at a time: within a batch the order would be the application's own affair.
func (trials *Trials) simple(consumer rmq.SimpleConsumer, wanted int) {
	for waiting := newDeadline(40 * time.Second); len(trials.succeeded()) < wanted; {
		require(!waiting.over(), "%d of %d succeeded within 40 s: %q", len(trials.succeeded()), wanted, trials.succeeded())
		got, err := receive(consumer, 1, short)
		check(err)
		for _, message := range got {
			if trials.succeeds(text(message)) {
				check(ack(consumer, message))
			} else {
				check(consumer.ChangeInvisibleDuration(message, time.Second))
			}
		}
	}
}

func fifoRetry(run *Run) {
	topic := run.topic("type=FIFO")
	groups := []string{run.group("push", retryQuickly, "max_attempts=5"), run.group("simple", retryQuickly, "max_attempts=5")}
	run.step("sending two message groups")
	producer := run.producer(topic)
	for index := range sick {
		sendInOrder(producer, topic, sick[index], well[index])
	}
	thirdFailsTwice := func(body string, earlier int) bool { return body == sick[2] && earlier < 2 }
	run.step("consuming with push consumers whose listener fails twice")
	push := &Trials{fails: thirdFailsTwice}
	push.push(run, groups[0], topic)
	push.wait(12)
	expectHeldBack("push", push)
	run.step("consuming with a simple consumer that lets the message come again twice")
	simple := &Trials{fails: thirdFailsTwice}
	simple.simple(run.simpleConsumer(groups[1], topic, "*"), 12)
	expectHeldBack("simple", simple)
	for _, group := range groups {
		run.expectNoLag(group, topic)
	}
}

func expectHeldBack(who string, trials *Trials) {
	expected := slices.Concat(sick[:3], []string{sick[2], sick[2]}, sick[3:])
	require(slices.Equal(trials.of("sick"), expected), "%s got %q instead of %q", who, trials.of("sick"), expected)
	require(slices.Equal(trials.of("well"), well), "%s got %q instead of %q", who, trials.of("well"), well)
	done := trials.succeeded()
	say("%s finished in the order %q", who, done)
	require(slices.Index(done, well[5]) < slices.Index(done, sick[2]), "%s: the other message group was held up: %q", who, done)
}

// ---- fifo-dead

func fifoDead(run *Run) {
	topic := run.topic("type=FIFO")
	groups := map[string]string{}
	for _, who := range fifoWho {
		groups[who] = run.group(who, retryQuickly, "max_attempts=2")
	}
	run.step("sending a message group")
	sendInOrder(run.producer(topic), topic, numbered("lane", 4)...)
	second := numbered("lane", 4)[1]
	trials := map[string]*Trials{}
	for _, who := range fifoWho {
		trials[who] = &Trials{fails: func(body string, _ int) bool { return body == second }}
	}
	run.step("consuming with push consumers that fail on the second message")
	trials["push"].push(run, groups["push"], topic)
	trials["push"].wait(3)
	run.step("consuming with a simple consumer that fails on the second message")
	trials["simple"].simple(run.simpleConsumer(groups["simple"], topic, "*"), 3)
	for _, who := range fifoWho {
		expected := slices.Insert(numbered("lane", 4), 1, second)
		require(slices.Equal(trials[who].of("lane"), expected), "%s got %q instead of %q", who, trials[who].of("lane"), expected)
		run.step("reading the dead letter queue of the " + who + " consumer")
		reader := run.simpleConsumer(run.group(who+"-reader"), "%DLQ%"+groups[who], "*")
		expectOnce(texts(collect(reader, 1, 15*time.Second)), []string{second})
		expectSilence(reader, 3*time.Second)
		run.expectNoLag(groups[who], topic)
	}
}
