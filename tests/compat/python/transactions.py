"""Transactional messages: seen when committed, once; never when rolled back; and the producer is asked when it forgot."""

import threading
import time

from harness import Failed, ack_surely, collect, expect_once, expect_silence, message, receive_surely, require, say, text, wait_until
from rocketmq import TransactionChecker, TransactionResolution

# The server first asks 6 s after the send.
ASKED_S = 12
BODIES = [f"open {number}" for number in range(3)]


class Checker(TransactionChecker):
    """Remembers what it was asked and always says the same."""

    def __init__(self, answer=TransactionResolution.COMMIT):
        self._answer = answer
        self._lock = threading.Lock()
        self._asked = []

    def check(self, message):
        say(f"the checker is asked about `{text(message)}`")
        with self._lock:
            self._asked.append(message)
        return self._answer

    def asked(self):
        with self._lock:
            return list(self._asked)


def half(topic, body):
    built = message(topic, body, tag="half", keys=f"key of {body}")
    built.add_property("what", "a half message")
    return built


def send_half(producer, topic, body):
    transaction = producer.begin_transaction()
    receipt = producer.send(half(topic, body), transaction)
    require(receipt.transaction_id, f"the receipt of `{body}` has no transaction id")
    return transaction


def txn_commit(run):
    topic, group = run.topic("topic", "type=TRANSACTION"), run.group()
    consumer = run.simple_consumer(group, topic)
    transaction = send_half(run.producer(topic, Checker()), topic, "committed")
    run.step("expecting nothing before the commit")
    # Shorter than until the first check, which would commit.
    expect_silence(consumer, 2)
    run.step("committing")
    transaction.commit()
    [got] = collect(consumer, 1, 10)
    expect_as_sent(got, topic, "committed")
    require(got.message_id == transaction.message_id, f"it was sent as `{transaction.message_id}` and came as `{got.message_id}`")
    run.step("expecting nothing else, also when a check would be due")
    expect_silence(consumer, 9)
    run.expect_no_lag(group, topic)


def txn_rollback(run):
    topic, group = run.topic("topic", "type=TRANSACTION"), run.group()
    consumer = run.simple_consumer(group, topic)
    checker = Checker()
    transaction = send_half(run.producer(topic, checker), topic, "rolled back")
    run.step("rolling back")
    transaction.rollback()
    run.step("expecting nothing, also when a check would be due")
    expect_silence(consumer, 12)
    require(not checker.asked(), "the checker was asked about a transaction that was rolled back")
    run.expect_no_lag(group, topic)


def expect_as_sent(got, topic, body):
    out = half(topic, body)
    for what in ("topic", "body", "tag", "keys", "properties"):
        require(getattr(got, what) == getattr(out, what), f"{what} was sent as {getattr(out, what)!r} and came as {getattr(got, what)!r}")
    require(not got.corrupted, "the client found the body's digest wrong")


def txn_check(run):
    topic, group = run.topic("topic", "type=TRANSACTION"), run.group()
    checker = Checker()
    producer, consumer = run.producer(topic, checker), run.simple_consumer(group, topic)
    for body in BODIES:
        send_half(producer, topic, body)
    restarted = run.middle("txn-check-heir")
    if restarted:
        # This client opens the stream on which it is asked again only with its next settings, minutes later.
        run.step("starting a second producer after the restart")
        run.producer(topic, checker)
    expect_asked(run, topic, group, consumer, checker, once=not restarted)


def txn_check_heir(run):
    inherit(run, "txn-check")


def txn_check_other(run):
    topic = run.topic("topic", "type=TRANSACTION")
    run.group()
    producer = run.producer(topic, Checker(TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED))
    for body in BODIES:
        send_half(producer, topic, body)
    run.step("asking to be killed")
    run.ask("kill-me txn-check-other-heir")
    raise Failed("the runner answered `kill-me` instead of killing this program")


def txn_check_other_heir(run):
    inherit(run, "txn-check-other")


def inherit(run, scenario):
    """The sender is gone. Its topic has another producer, which is asked."""
    topic, group = run.name("topic", scenario), run.name("group", scenario)
    checker = Checker()
    run.producer(topic, checker)
    expect_asked(run, topic, group, run.simple_consumer(group, topic), checker, once=True)


def expect_asked(run, topic, group, consumer, checker, once):
    run.step("waiting for the checker to be asked")
    began = time.monotonic()
    wait_until(lambda: f"asked about {[text(one) for one in checker.asked()]}", lambda: {text(one) for one in checker.asked()} == set(BODIES), ASKED_S + (0 if once else 35))
    say(f"asked after {time.monotonic() - began:.1f} s")
    for one in checker.asked():
        expect_as_sent(one, topic, text(one))
    run.step("receiving what the checker committed")
    got = []
    deadline = time.monotonic() + 15
    while len({text(one) for one in got}) < len(BODIES):
        require(time.monotonic() < deadline, f"received {[text(one) for one in got]} within 15 s")
        for one in receive_surely(consumer, 16, 30):
            got.append(one)
            ack_surely(consumer, one)
    expect_once([text(one) for one in got], BODIES)
    for one in got:
        expect_as_sent(one, topic, text(one))
    expect_silence(consumer, 4)
    run.expect_no_lag(group, topic)
