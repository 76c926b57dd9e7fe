"""Simple consumers: batches, invisible durations, receipt handles."""

import time

from harness import collect, expect_once, expect_silence, require, say, send_all, text

# The shortest invisible duration the protocol allows for a receive.
SHORT_S = 10
# A redelivery later than this after the end of the invisible duration is too late.
SLACK_S = 5


def simple_receive_ack(run):
    topic, group = run.topic(), run.group()
    bodies = [f"batch {index}" for index in range(20)]
    send_all(run.producer(), topic, bodies)
    run.step("receiving in batches of 8 and acknowledging")
    consumer = run.simple_consumer(group, topic)
    got = collect(consumer, 20, 20, invisible_s=SHORT_S, batch=8)
    expect_once([text(one) for one in got], bodies)
    run.step("expecting nothing after the invisible duration")
    expect_silence(consumer, SHORT_S + 3)
    run.expect_no_lag(group, topic)


def receive_one(consumer, invisible_s, seconds=20):
    """One message and the times before and after the call that brought it: the lease began between the two."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = time.monotonic()
        got = consumer.receive(1, invisible_s)
        if got:
            require(len(got) == 1, f"asked for one message and got {len(got)}")
            return got[0], before, time.monotonic()
    require(False, f"nothing came within {seconds} s")


def expect_redelivery(consumer, before, after, invisible_s, attempt):
    """The message comes again not before `invisible_s` and not later than the slack allows."""
    again, _, at = receive_one(consumer, 30, invisible_s + SLACK_S + 2)
    say(f"came again {at - before:.2f} s after the lease began")
    require(at - before >= invisible_s, f"came again after {at - before:.2f} s, before its {invisible_s} s were over")
    require(at - after <= invisible_s + SLACK_S, f"came again only after {at - after:.2f} s instead of {invisible_s} s")
    require(again.delivery_attempt == attempt, f"the redelivery has attempt {again.delivery_attempt} instead of {attempt}")
    return again


def simple_expire_redeliver(run):
    topic, group = run.topic(), run.group()
    send_all(run.producer(), topic, ["expires"])
    consumer = run.simple_consumer(group, topic)
    run.step("receiving without an acknowledgement")
    first, before, after = receive_one(consumer, SHORT_S)
    require(first.delivery_attempt == 1, f"the first delivery has attempt {first.delivery_attempt}")
    run.step("waiting for the redelivery")
    consumer.ack(expect_redelivery(consumer, before, after, SHORT_S, 2))
    run.expect_no_lag(group, topic)


def simple_change_invisible(run):
    topic, group = run.topic(), run.group()
    producer, consumer = run.producer(), run.simple_consumer(group, topic)
    send_all(producer, topic, ["changed and left"])
    run.step("receiving with 30 s and changing to 10 s")
    first, _, _ = receive_one(consumer, 30)
    before = time.monotonic()
    consumer.change_invisible_duration(first, SHORT_S)
    after = time.monotonic()
    run.step("waiting for the redelivery")
    consumer.ack(expect_redelivery(consumer, before, after, SHORT_S, 2))

    send_all(producer, topic, ["changed and acknowledged"])
    run.step("acknowledging with the changed handle")
    second, _, _ = receive_one(consumer, 30)
    require(text(second) == "changed and acknowledged", f"`{text(second)}` came again after its acknowledgement")
    original = second.receipt_handle
    consumer.change_invisible_duration(second, SHORT_S)
    say(f"the change {'kept' if second.receipt_handle == original else 'replaced'} the receipt handle")
    consumer.ack(second)
    expect_silence(consumer, SHORT_S + 3)
    run.expect_no_lag(group, topic)


def simple_late_ack(run):
    topic, group = run.topic(), run.group()
    send_all(run.producer(), topic, ["late"])
    consumer = run.simple_consumer(group, topic)
    run.step("letting the invisible duration end")
    first, _, _ = receive_one(consumer, SHORT_S)
    newer, _, _ = receive_one(consumer, SHORT_S, SHORT_S + SLACK_S + 2)
    require(newer.delivery_attempt == 2, f"the redelivery has attempt {newer.delivery_attempt} instead of 2")
    run.step("acknowledging with the old handle")
    if not refused(lambda: consumer.ack(first)):
        # Success is allowed when it changed nothing: then the message comes a third time.
        newer, _, _ = receive_one(consumer, 30, SHORT_S + SLACK_S + 2)
        require(newer.delivery_attempt == 3, f"the second redelivery has attempt {newer.delivery_attempt} instead of 3")
    run.step("acknowledging the new delivery")
    consumer.ack(newer)
    expect_silence(consumer, SHORT_S + 3)
    run.expect_no_lag(group, topic)


def refused(acknowledge):
    try:
        acknowledge()
    except Exception as refusal:
        require(isinstance(getattr(refusal, "code", None), int), f"the late acknowledgement was not answered: {refusal}")
        say(f"the late acknowledgement was refused: {refusal}")
        return True
    say("the late acknowledgement was answered with success")
    return False
