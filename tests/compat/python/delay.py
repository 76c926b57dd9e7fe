"""Delayed messages: never early, soon when due, and gone when recalled in time."""

import math
import time

from harness import Failed, collect, expect_silence, message, receive_surely, require, say, text
from ledger import Ledger

EARLY_S = 0.05
LATE_S = 10
# After a kill the client needs a moment to connect again before it can be on time.
RECOVERY_S = 6
EACH = 5


def due_in(seconds):
    """This client sends whole seconds."""
    return math.ceil(time.time() + seconds)


def delay(run):
    topic, group = run.topic("topic", "type=DELAY"), run.group()
    consumer = run.simple_consumer(group, topic)
    producer = run.producer()
    ledger = Ledger(run)
    run.step("sending")
    dues = {"past": int(time.time()) - 60, "soon": due_in(2), "later": due_in(5)}
    for lane, due in dues.items():
        for number in range(EACH):
            producer.send(message(topic, f"{lane} {number}", delivery_timestamp=due))
        # So that an heir knows as well.
        run.note(f"due {lane} {due}")
    sent_at = time.time()
    restarted = run.middle("delay-heir")
    ready_at = time.time() + RECOVERY_S if restarted else sent_at
    receive_on_time(run, consumer, group, topic, ledger, {**dues, "past": sent_at}, ready_at, once=not restarted)


def delay_heir(run):
    topic, group = run.name("topic", "delay"), run.name("group", "delay")
    ledger = Ledger(run)
    dues = {lane: ledger.numbers("due", lane)[0] for lane in ("past", "soon", "later")}
    consumer = run.simple_consumer(group, topic)
    receive_on_time(run, consumer, group, topic, ledger, dues, time.time() + RECOVERY_S, once=False)


def receive_on_time(run, consumer, group, topic, ledger, dues, ready_at, once):
    """Nothing counts as late before `ready_at`."""
    run.step("receiving")
    deadline = time.monotonic() + 40
    worst = 0
    while ledger.count("got") < EACH * len(dues):
        require(time.monotonic() < deadline, f"{ledger.count('got')} of {EACH * len(dues)} messages within 40 s")
        for delivered in receive_surely(consumer, 16, 10):
            at, due = time.time(), delivered.delivery_timestamp / 1000
            lane = text(delivered).split()[0]
            require(lane == "past" or due == dues[lane], f"`{text(delivered)}` carries the delivery timestamp {due} instead of {dues[lane]}")
            require(at >= due - EARLY_S, f"`{text(delivered)}` came {due - at:.3f} s early")
            late = at - max(dues[lane], ready_at)
            worst = max(worst, late)
            require(late <= LATE_S, f"`{text(delivered)}` came {late:.3f} s late")
            ledger.add("got", text(delivered))
            consumer.ack(delivered)
    say(f"the latest came {worst:.3f} s after it was due")
    run.step("expecting nothing else")
    expect_silence(consumer, 3 if once else 12)
    for lane in dues:
        came = ledger.numbers("got", lane)
        require(set(came) == set(range(EACH)), f"of `{lane}` came {came}")
        require(not once or len(came) == EACH, f"of `{lane}` some came more than once: {came}")
    run.expect_no_lag(group, topic)


def delay_recall(run):
    topic, group = run.topic("topic", "type=DELAY"), run.group()
    producer, consumer = run.producer(), run.simple_consumer(group, topic)
    run.step("recalling before the time")
    due = due_in(6)
    receipt = producer.send(message(topic, "recalled", delivery_timestamp=due))
    require(receipt.recall_handle, "the receipt of a delayed message has no recall handle")
    recalled = producer.recall_message(topic, receipt.recall_handle)
    require(recalled == receipt.message_id, f"the recall answered message id `{recalled}` instead of `{receipt.message_id}`")
    run.step("expecting that it never comes")
    expect_silence(consumer, due - time.time() + 4)

    run.step("recalling after the delivery")
    late = producer.send(message(topic, "delivered", delivery_timestamp=due_in(1)))
    [got] = collect(consumer, 1, 10)
    require(text(got) == "delivered", f"`{text(got)}` came")
    expect_no_recall(producer, topic, late)
    run.expect_no_lag(group, topic)


def expect_no_recall(producer, topic, receipt):
    """This client takes MESSAGE_NOT_FOUND for a success, whatever was called; then only the missing message id tells."""
    try:
        recalled = producer.recall_message(topic, receipt.recall_handle)
    except Exception as refusal:
        require(isinstance(getattr(refusal, "code", None), int), f"the late recall was not answered: {refusal}")
        say(f"the late recall was refused: {refusal}")
        return
    if recalled:
        raise Failed(f"the late recall was answered with message id `{recalled}`")
    say("the late recall was answered without a message id")

