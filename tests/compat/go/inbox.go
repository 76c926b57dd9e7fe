package main

import (
	"slices"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const (
	// How often waiting looks at the deliveries.
	look = 50 * time.Millisecond
	// No scenario's deliveries take longer; without an end, messages that come forever would say nothing about why.
	restless = 60 * time.Second
)

// Delivery is one call of the listener.
type Delivery struct {
	body    string
	attempt int32
	at      time.Time
}

// Inbox is a listener that remembers every delivery, so that scenarios can compare what came instead of sleeping.
type Inbox struct {
	decide func(Delivery) rmq.ConsumerResult

	mutex sync.Mutex
	came  []Delivery
}

// newInbox makes an inbox that consumes everything.
func newInbox() *Inbox {
	return &Inbox{decide: func(Delivery) rmq.ConsumerResult { return rmq.SUCCESS }}
}

func (inbox *Inbox) consume(message *rmq.MessageView) rmq.ConsumerResult {
	delivery := Delivery{text(message), message.GetDeliveryAttempt(), time.Now()}
	inbox.mutex.Lock()
	inbox.came = append(inbox.came, delivery)
	inbox.mutex.Unlock()
	return inbox.decide(delivery)
}

func (inbox *Inbox) deliveries() []Delivery {
	inbox.mutex.Lock()
	defer inbox.mutex.Unlock()
	return slices.Clone(inbox.came)
}

func (inbox *Inbox) bodies() []string {
	deliveries := inbox.deliveries()
	bodies := make([]string, len(deliveries))
	for index, delivery := range deliveries {
		bodies[index] = delivery.body
	}
	return bodies
}

func (inbox *Inbox) count() int {
	inbox.mutex.Lock()
	defer inbox.mutex.Unlock()
	return len(inbox.came)
}

func (inbox *Inbox) waitFor(wanted int, in time.Duration) {
	for waiting := newDeadline(in); inbox.count() < wanted; time.Sleep(look) {
		require(!waiting.over(), "%d of %d deliveries within %v", inbox.count(), wanted, in)
	}
}

// waitQuiet returns when nothing has come for so long.
func (inbox *Inbox) waitQuiet(long time.Duration) {
	seen, quiet, waiting := inbox.count(), newDeadline(long), newDeadline(restless)
	for !quiet.over() {
		time.Sleep(look)
		require(!waiting.over(), "%d deliveries within %v and no end", inbox.count(), restless)
		if count := inbox.count(); count != seen {
			seen, quiet = count, newDeadline(long)
		}
	}
}
