"""Priority: of what waits, the highest comes first."""

import time

from harness import ack_surely, expect_silence, message, receive_surely, require, text
from ledger import Ledger

PRIORITIES = (0, 4, 9)
EACH = 10


def priority(run):
    topic, group = run.topic("topic", "type=PRIORITY"), run.group()
    producer = run.producer()
    run.step("sending all priorities mixed, before there is a consumer")
    for number in range(EACH):
        for level in PRIORITIES:
            producer.send(message(topic, f"p{level} {number}", priority=level))
    ledger = Ledger(run)
    consumer = run.simple_consumer(group, topic)
    run.step("receiving half, one at a time")
    receive_until(consumer, ledger, len(PRIORITIES) * EACH // 2)
    restarted = run.middle("priority-heir")
    receive_rest(run, consumer, group, topic, ledger, once=not restarted)


def priority_heir(run):
    topic, group = run.name("topic", "priority"), run.name("group", "priority")
    receive_rest(run, run.simple_consumer(group, topic), group, topic, Ledger(run), once=False)


def receive_until(consumer, ledger, wanted):
    deadline = time.monotonic() + 40
    while ledger.count("got") < wanted:
        require(time.monotonic() < deadline, f"{ledger.count('got')} of {wanted} messages within 40 s")
        for one in receive_surely(consumer, 1, 10):
            ledger.add("got", text(one))
            ack_surely(consumer, one)


def receive_rest(run, consumer, group, topic, ledger, once):
    run.step("receiving the rest, one at a time")
    receive_until(consumer, ledger, len(PRIORITIES) * EACH)
    levels = ledger.lanes("got")
    expected = [f"p{level}" for level in sorted(PRIORITIES, reverse=True) for _ in range(EACH)]
    require(levels == expected, f"the priorities came in the order {levels}")
    run.step("expecting nothing else")
    expect_silence(consumer, 3 if once else 12)
    for level in PRIORITIES:
        came = ledger.numbers("got", f"p{level}")
        require(set(came) == set(range(EACH)), f"of priority {level} came {came}")
        require(not once or len(came) == EACH, f"of priority {level} some came more than once: {came}")
    run.expect_no_lag(group, topic)
