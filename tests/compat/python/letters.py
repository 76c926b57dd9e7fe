"""Dead letters: they wait, and come again when an operator redrives them."""

import threading

from harness import collect, expect_once, expect_silence, require, say, send_all, text
from inbox import Inbox


def nack_dlq_redrive(run):
    topic = run.topic()
    group = run.group("group", "max_attempts=2", "retry=1s,1s")
    reader = run.group("reader")
    healed = threading.Event()
    inbox = Inbox(lambda delivery: healed.is_set())
    run.step("starting a push consumer that fails")
    run.push_consumer(group, topic, inbox)
    send_all(run.producer(), topic, ["sick"])
    inbox.wait_for(2, 30)
    inbox.wait_quiet(4)
    attempts = [delivery.attempt for delivery in inbox.deliveries()]
    require(attempts == [1, 2], f"the message came with attempts {attempts} instead of 1 and 2")
    run.step("reading the dead letter queue")
    letters = run.simple_consumer(reader, f"%DLQ%{group}")
    expect_once([text(one) for one in collect(letters, 1, 15)], ["sick"])
    run.step("redriving")
    healed.set()
    run.ask(f"redrive {group}")
    inbox.wait_for(3, 20)
    inbox.wait_quiet(4)
    expect_once(inbox.bodies()[2:], ["sick"])
    say(f"after the redrive it came with attempt {inbox.deliveries()[2].attempt}")
    expect_silence(letters, 3)
    run.expect_no_lag(group, topic)
