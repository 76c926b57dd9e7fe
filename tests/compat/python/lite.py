"""Lite topics: a client gets those that it subscribed to, each in order."""

import time

from harness import Task, ack_surely, message, receive_surely, require, say, send_surely, text, wait_until
from inbox import Inbox
from ledger import Ledger

SUBSCRIBED = ("one", "two")
ALL = (*SUBSCRIBED, "three")
LENGTH = 30
AFTERWARDS = range(LENGTH, LENGTH + 5)
WHO = ("push", "simple")


def lite(run):
    topic = run.topic("topic", "type=LITE")
    groups = {who: run.group(who, f"lite={topic}", "retry=1s,1s") for who in WHO}
    play_lite(run, topic, groups)


def lite_heir(run):
    groups = {who: run.name(who, "lite") for who in WHO}
    play_lite(run, run.name("topic", "lite"), groups, harsh=True)


def play_lite(run, topic, groups, harsh=False):
    ledger = Ledger(run)
    run.step("subscribing")
    push = run.lite_push_consumer(groups["push"], topic, Inbox(lambda delivery: ledger.consume("push", delivery.body)))
    simple = run.lite_simple_consumer(groups["simple"], topic)
    consumers = {"push": push, "simple": simple}
    for consumer in consumers.values():
        subscribe(consumer, SUBSCRIBED)
    producer = run.producer()
    tasks = [Task(lambda stop: receive_all(simple, ledger, stop)), Task(lambda stop: send_rest(producer, topic, ledger))]
    total = len(SUBSCRIBED) * LENGTH
    try:
        run.step("sending and receiving until the middle")
        wait_until(lambda: f"{counts(ledger)} of {total} before the middle", lambda: min(counts(ledger)) > total / 4, 30, tasks)
        harsh = run.middle("lite-heir") or harsh
        run.step("sending and receiving the rest")
        wait_until(lambda: f"{counts(ledger)} of {total}", lambda: min(counts(ledger)) >= total, 90, tasks)
        tasks[1].end()
        run.step("unsubscribing from one of the two")
        for consumer in consumers.values():
            consumer.unsubscribe_lite(SUBSCRIBED[1])
        for number in AFTERWARDS:
            for name in ALL:
                send(producer, topic, name, number)
        wanted = total + len(AFTERWARDS)
        wait_until(lambda: f"{counts(ledger)} of {wanted}", lambda: min(counts(ledger)) >= wanted, 20, tasks)
        time.sleep(3)
    finally:
        for task in tasks:
            task.stop()
    for who in WHO:
        ledger.expect_in_order(who, "one", range(AFTERWARDS.stop), once=not harsh)
        ledger.expect_in_order(who, "two", range(LENGTH), once=not harsh)
        require(not ledger.numbers(who, "three"), f"{who} got messages of a lite topic that it never subscribed to")


def counts(ledger):
    return [ledger.count(who) for who in WHO]


def subscribe(consumer, names):
    """A client that just started doesn't know its quota yet and refuses by itself, so this goes on for a while.

    This client's `subscribe_lite` sends every letter of the name as a lite topic of its own. It remembers the name, though: what it sends as its
    whole set is right, every 30 s and when it is asked to.
    """
    deadline = time.monotonic() + 10
    while True:
        try:
            for name in names:
                consumer.subscribe_lite(name)
            consumer.subscribe_lite_all()
            return
        except Exception as error:
            require(time.monotonic() < deadline, f"the subscription to {names} was refused for 10 s: {error}")
            say(f"the subscription to {names} was refused: {error}")
            time.sleep(0.5)


def send(producer, topic, name, number):
    send_surely(producer, lambda: message(topic, f"{name} {number}", lite_topic=name))


def send_rest(producer, topic, ledger):
    for number in range(LENGTH):
        for name in ALL:
            if number not in ledger.numbers("sent", name):
                send(producer, topic, name, number)
                ledger.add("sent", f"{name} {number}")
                time.sleep(0.01)


def receive_all(consumer, ledger, stop):
    while not stop.is_set():
        for delivered in receive_surely(consumer, 16, 10):
            require(delivered.lite_topic == text(delivered).split()[0], f"`{text(delivered)}` came with lite topic `{delivered.lite_topic}`")
            ledger.add("simple", text(delivered))
            if not ack_surely(consumer, delivered):
                break
