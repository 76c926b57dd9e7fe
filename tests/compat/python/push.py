"""Push consumers: delivery, retry, dead letters, sharing."""

import threading

from harness import collect, expect_once, expect_silence, require, say, send_all, text
from inbox import Inbox

# A push consumer asks for its assignment one second after its start; before that it receives nothing.
WARM_UP_S = 4


def push_success(run):
    topic, group = run.topic(), run.group()
    inbox = Inbox()
    run.step("starting the push consumer")
    run.push_consumer(group, topic, inbox)
    bodies = [f"push {index}" for index in range(50)]
    run.step("sending 50 messages")
    send_all(run.producer(), topic, bodies)
    run.step("waiting for 50 deliveries, then for 10 s of quiet")
    inbox.wait_for(50, 30)
    inbox.wait_quiet(10)
    expect_once(inbox.bodies(), bodies)
    run.expect_no_lag(group, topic)


def push_retry_dlq(run):
    topic = run.topic()
    group = run.group("group", "max_attempts=3", "retry=1s,1s")
    reader = run.group("reader")
    inbox = Inbox(lambda delivery: False)
    run.step("starting a push consumer that always fails")
    run.push_consumer(group, topic, inbox)
    bodies = [f"hopeless {index}" for index in range(3)]
    send_all(run.producer(), topic, bodies)
    run.step("waiting for three deliveries of each message")
    inbox.wait_for(9, 30)
    inbox.wait_quiet(5)
    for body in bodies:
        expect_attempts(inbox, body, [1, 2, 3])
    run.step("reading the dead letter queue")
    consumer = run.simple_consumer(reader, f"%DLQ%{group}")
    dead = collect(consumer, 3, 20)
    expect_once([text(got) for got in dead], bodies)
    expect_silence(consumer, 4)
    run.expect_no_lag(group, topic)


def push_retry_then_ok(run):
    topic = run.topic()
    group = run.group("group", "max_attempts=3", "retry=1s,1s")
    inbox = Inbox(lambda delivery: delivery.attempt > 1)
    run.step("starting a push consumer that fails once")
    run.push_consumer(group, topic, inbox)
    send_all(run.producer(), topic, ["second chance"])
    run.step("waiting for two deliveries")
    inbox.wait_for(2, 30)
    inbox.wait_quiet(5)
    expect_attempts(inbox, "second chance", [1, 2])
    run.expect_no_lag(group, topic)


def expect_attempts(inbox, body, expected):
    came = [delivery for delivery in inbox.deliveries() if delivery.body == body]
    gaps = [f"{after.at - before.at:.1f} s" for before, after in zip(came, came[1:])]
    say(f"`{body}` came {len(came)} times, apart by {gaps}")
    attempts = [delivery.attempt for delivery in came]
    require(attempts == expected, f"`{body}` came with attempts {attempts} instead of {expected}")


def group_shares(run):
    topic, group = run.topic(), run.group()
    inboxes = [Inbox(), Inbox()]
    run.step("starting two push consumers of one group")
    for inbox in inboxes:
        run.push_consumer(group, topic, inbox)
    threading.Event().wait(WARM_UP_S)
    bodies = [f"shared {index}" for index in range(100)]
    run.step("sending 100 messages")
    send_all(run.producer(), topic, bodies)
    run.step("waiting for all of them")
    inboxes[0].wait_quiet(4)
    inboxes[1].wait_quiet(4)
    shares = [len(inbox.bodies()) for inbox in inboxes]
    say(f"the consumers got {shares[0]} and {shares[1]} messages")
    expect_once(inboxes[0].bodies() + inboxes[1].bodies(), bodies)
    require(all(shares), f"one of the consumers got nothing: {shares}")
    run.expect_no_lag(group, topic)


def groups_each(run):
    topic = run.topic()
    groups = [run.group("one"), run.group("two")]
    inboxes = [Inbox(), Inbox()]
    run.step("starting one push consumer in each of two groups")
    for group, inbox in zip(groups, inboxes):
        run.push_consumer(group, topic, inbox)
    bodies = [f"for each {index}" for index in range(20)]
    send_all(run.producer(), topic, bodies)
    run.step("waiting for 20 deliveries in both groups")
    for group, inbox in zip(groups, inboxes):
        inbox.wait_for(20, 30)
        inbox.wait_quiet(4)
        expect_once(inbox.bodies(), bodies)
        run.expect_no_lag(group, topic)
