"""FIFO: each message group in order, whatever fails."""

import threading
import time

from harness import Task, ack_surely, collect, expect_silence, message, receive_surely, require, say, send_surely, text, wait_until
from inbox import Inbox
from ledger import Ledger

LANES = [f"lane-{number}" for number in range(5)]
LENGTH = 40
SHORT_S = 10
WHO = ("push", "simple")
# The client takes delays from the server only as a list.
RETRY = "retry=1s,1s"


def fifo(topic, body):
    """The lane is the message group."""
    return message(topic, body, message_group=body.split()[0])


def send_in_order(producer, topic, bodies):
    for body in bodies:
        send_surely(producer, lambda body=body: fifo(topic, body))


# -- fifo-order ---------------------------------------------------------------------------------------------------------------------


def fifo_order(run):
    topic = run.topic("topic", "type=FIFO")
    groups = {who: run.group(who, RETRY) for who in WHO}
    play_order(run, topic, groups)


def fifo_order_heir(run):
    groups = {who: run.name(who, "fifo-order") for who in WHO}
    play_order(run, run.name("topic", "fifo-order"), groups, harsh=True)


def play_order(run, topic, groups, harsh=False):
    ledger = Ledger(run)
    inbox = Inbox(lambda delivery: ledger.consume("push", delivery.body))
    run.push_consumer(groups["push"], topic, inbox)
    simple = run.simple_consumer(groups["simple"], topic)
    producer = run.producer()
    total = len(LANES) * LENGTH
    tasks = [Task(lambda stop: receive_all(simple, ledger, stop)), Task(lambda stop: send_rest(producer, topic, ledger))]
    try:
        run.step("sending and receiving until the middle")
        wait_until(lambda: f"{counts(ledger)} of {total} before the middle", lambda: min(counts(ledger)) > total / 4, 40, tasks)
        harsh = run.middle("fifo-order-heir") or harsh
        run.step("sending and receiving the rest")
        wait_until(lambda: f"{counts(ledger)} of {total}", lambda: min(counts(ledger)) >= total, 90, tasks)
        time.sleep(2)
    finally:
        for task in tasks:
            task.stop()
    for who in WHO:
        for lane in LANES:
            ledger.expect_in_order(who, lane, range(LENGTH), once=not harsh)
        run.expect_no_lag(groups[who], topic)


def counts(ledger):
    return [ledger.count(who) for who in WHO]


def send_rest(producer, topic, ledger):
    """Goes on after what is noted as sent. A send that was acknowledged but not noted is repeated."""
    for number in range(LENGTH):
        for lane in LANES:
            if number not in ledger.numbers("sent", lane):
                send_in_order(producer, topic, [f"{lane} {number}"])
                ledger.add("sent", f"{lane} {number}")


def receive_all(consumer, ledger, stop):
    while not stop.is_set():
        for delivered in receive_surely(consumer, 16, SHORT_S):
            ledger.add("simple", text(delivered))
            if not ack_surely(consumer, delivered):
                # The rest of the batch may have been given to others; in order it comes again.
                break


# -- fifo-retry ---------------------------------------------------------------------------------------------------------------------

SICK = [f"sick {number}" for number in range(1, 7)]
WELL = [f"well {number}" for number in range(1, 7)]


class Deliveries:
    """Every delivery of every lane in order, and whether it succeeded."""

    def __init__(self, fails):
        self._fails = fails
        self._lock = threading.Lock()
        self.came = []

    def succeed(self, body):
        """Takes a delivery down. Tells whether it succeeds: `fails(body, earlier)` knows how often it came before."""
        with self._lock:
            earlier = sum(1 for came, _ in self.came if came == body)
            succeeds = not self._fails(body, earlier)
            self.came.append((body, succeeds))
            return succeeds

    def count(self):
        with self._lock:
            return sum(1 for _, succeeds in self.came if succeeds)

    def of(self, lane):
        with self._lock:
            return [body for body, _ in self.came if body.split()[0] == lane]


def third_fails_twice(body, earlier):
    return body == SICK[2] and earlier < 2


def fifo_retry(run):
    topic = run.topic("topic", "type=FIFO")
    groups = {who: run.group(who, RETRY, "max_attempts=5") for who in WHO}
    run.step("sending two message groups")
    send_in_order(run.producer(), topic, [body for pair in zip(SICK, WELL) for body in pair])
    run.step("consuming with a push consumer whose listener fails twice")
    push = Deliveries(third_fails_twice)
    run.push_consumer(groups["push"], topic, Inbox(lambda delivery: push.succeed(delivery.body)))
    wait_until(lambda: f"{push.count()} of 12 succeeded: {push.came}", lambda: push.count() >= 12, 30)
    expect_held_back("push", push)
    run.step("consuming with a simple consumer that lets the message come again twice")
    simple = Deliveries(third_fails_twice)
    consumer = run.simple_consumer(groups["simple"], topic)
    consume_singly(consumer, simple, 12, 40)
    expect_held_back("simple", simple)
    for group in groups.values():
        run.expect_no_lag(group, topic)


def consume_singly(consumer, deliveries, wanted, seconds):
    """One at a time: within a batch the order would be the application's own affair."""
    deadline = time.monotonic() + seconds
    while deliveries.count() < wanted:
        require(time.monotonic() < deadline, f"{deliveries.count()} of {wanted} succeeded within {seconds} s: {deliveries.came}")
        for delivered in consumer.receive(1, SHORT_S):
            if deliveries.succeed(text(delivered)):
                consumer.ack(delivered)
            else:
                consumer.change_invisible_duration(delivered, 2)


def expect_held_back(who, deliveries):
    expected = SICK[:2] + [SICK[2]] * 3 + SICK[3:]
    require(deliveries.of("sick") == expected, f"{who} got {deliveries.of('sick')} instead of {expected}")
    require(deliveries.of("well") == WELL, f"{who} got {deliveries.of('well')} instead of {WELL}")
    done = [body for body, succeeds in deliveries.came if succeeds]
    say(f"{who} finished in the order {done}")
    require(done.index(WELL[-1]) < done.index(SICK[2]), f"{who}: the other message group was held up: {done}")


# -- fifo-dead ----------------------------------------------------------------------------------------------------------------------

LANE = [f"lane {number}" for number in range(1, 5)]


def fifo_dead(run):
    topic = run.topic("topic", "type=FIFO")
    groups = {who: run.group(who, RETRY, "max_attempts=2") for who in WHO}
    run.step("sending a message group")
    send_in_order(run.producer(), topic, LANE)
    second_fails = {who: Deliveries(lambda body, earlier: body == LANE[1]) for who in WHO}
    run.step("consuming with a push consumer that fails on the second message")
    push = second_fails["push"]
    run.push_consumer(groups["push"], topic, Inbox(lambda delivery: push.succeed(delivery.body)))
    wait_until(lambda: f"{push.count()} of 3 succeeded: {push.came}", lambda: push.count() >= 3, 30)
    run.step("consuming with a simple consumer that fails on the second message")
    consume_singly(run.simple_consumer(groups["simple"], topic), second_fails["simple"], 3, 30)
    for who in WHO:
        expected = [LANE[0], LANE[1], LANE[1], LANE[2], LANE[3]]
        came = second_fails[who].of("lane")
        require(came == expected, f"{who} got {came} instead of {expected}")
        run.step(f"reading the dead letter queue of the {who} consumer")
        reader = run.simple_consumer(run.group(f"{who}-reader"), f"%DLQ%{groups[who]}")
        dead = [text(letter) for letter in collect(reader, 1, 15)]
        require(dead == [LANE[1]], f"the dead letters of {who} are {dead} instead of {[LANE[1]]}")
        expect_silence(reader, 3)
        run.expect_no_lag(groups[who], topic)
