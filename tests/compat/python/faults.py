"""Faults: the server or the consumer is killed, and nothing acknowledged is lost or repeated."""

import threading
import time

from harness import Failed, collect, expect_silence, message, require, say, send_all, text
from inbox import Inbox

# The client acknowledges right after the listener; what was consumed this long before the kill counts as acknowledged.
SETTLED_S = 2


class Stream:
    """Sends numbered messages until it is stopped and remembers which were acknowledged."""

    def __init__(self, producer, topic):
        self._producer = producer
        self._topic = topic
        self._stop = threading.Event()
        self.acknowledged = {}
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self):
        index = 0
        while not self._stop.wait(0.02):
            body = f"stream {index}"
            index += 1
            try:
                self._producer.send(message(self._topic, body))
                self.acknowledged[body] = time.monotonic()
            except Exception as error:
                say(f"send of `{body}` failed, which is allowed while the server is away: {' '.join(str(error).split())[:120]}")
                self._stop.wait(0.2)

    def stop(self):
        self._stop.set()
        self._thread.join(20)
        require(not self._thread.is_alive(), "a send did not return within 20 s")
        return dict(self.acknowledged)


def server_killed(run):
    topic, group = run.topic(), run.group()
    inbox = Inbox()
    run.push_consumer(group, topic, inbox)
    stream = Stream(run.producer(), topic)
    run.step("sending and receiving before the kill")
    inbox.wait_for(20, 15)
    time.sleep(3)
    killed_at = time.monotonic()
    settled = {one.body for one in inbox.deliveries() if one.at < killed_at - SETTLED_S}
    run.step("asking for a restart")
    run.ask("restart")
    restarted_at = time.monotonic()
    run.step("sending and receiving after the restart")
    time.sleep(6)
    acknowledged = stream.stop()
    say(f"{len(acknowledged)} sends acknowledged, {len(settled)} messages consumed for certain before the kill")
    require(any(at > restarted_at for at in acknowledged.values()), "no send was acknowledged after the restart")
    wait_for_all(inbox, set(acknowledged), 75)
    inbox.wait_quiet(4)
    after = [one for one in inbox.deliveries() if one.at > restarted_at]
    require(after, "the consumer received nothing after the restart")
    say(f"first delivery {after[0].at - restarted_at:.1f} s after the restart")
    again = [one for one in inbox.deliveries() if one.at > killed_at and one.body in settled]
    require(not again, f"{len(again)} acknowledged messages came again, the first is `{again and again[0].body}`")


def wait_for_all(inbox, expected, seconds):
    deadline = time.monotonic() + seconds
    while True:
        missing = expected - set(inbox.bodies())
        if not missing:
            return
        if time.monotonic() > deadline:
            raise Failed(f"{len(missing)} acknowledged sends were not received within {seconds} s: {sorted(missing)[:5]}")
        time.sleep(0.2)


def consumer_killed(run):
    topic, group = run.topic(), run.group()
    send_all(run.producer(), topic, [f"inherited {index}" for index in range(10)])
    consumer = run.simple_consumer(group, topic)
    run.step("receiving ten and acknowledging five")
    got = collect(consumer, 10, 8, invisible_s=10, batch=10, ack=False)
    for one in got:
        if one_of_the_acknowledged(one):
            consumer.ack(one)
    run.step("asking to be killed")
    run.ask("kill-me consumer_killed_heir")
    raise Failed("the runner answered `kill-me` instead of killing this program")


def one_of_the_acknowledged(got):
    """Both lives of the consumer must agree on the five; the body tells."""
    return int(text(got).split()[1]) < 5


def consumer_killed_heir(run):
    topic, group = run.name("topic", "consumer_killed"), run.name("group", "consumer_killed")
    consumer = run.simple_consumer(group, topic)
    run.step("waiting for the five that were not acknowledged")
    got = collect(consumer, 5, 30, invisible_s=30)
    require(not any(one_of_the_acknowledged(one) for one in got), f"acknowledged ones came again: {[text(one) for one in got]}")
    require(len({text(one) for one in got}) == 5, f"expected five different messages: {[text(one) for one in got]}")
    attempts = [one.delivery_attempt for one in got]
    require(attempts == [2] * 5, f"the redeliveries have attempts {attempts} instead of 2")
    run.step("expecting nothing else")
    expect_silence(consumer, 12)
    run.expect_no_lag(group, topic)


def producer_restart_handle(run):
    topic, group = run.topic(), run.group()
    send_all(run.producer(), topic, ["held across the restart"])
    consumer = run.simple_consumer(group, topic)
    run.step("receiving before the restart")
    [held] = collect(consumer, 1, 15, invisible_s=30, ack=False)
    received_at = time.monotonic()
    run.step("asking for a restart")
    run.ask("restart")
    run.step("acknowledging with the handle from before the restart")
    acknowledge(consumer, held, received_at + 25)
    run.step("expecting no redelivery after the invisible duration")
    while time.monotonic() < received_at + 35:
        quiet_after_a_restart(consumer)
    run.expect_no_lag(group, topic)


def acknowledge(consumer, held, deadline):
    """The connection may need a moment to come back; only an answer of the server is final."""
    while True:
        try:
            consumer.ack(held)
            return
        except Exception as error:
            answered = getattr(error, "code", None)
            require(not isinstance(answered, int), f"the acknowledgement was refused: {error}")
            require(time.monotonic() < deadline, f"the acknowledgement did not get through: {error}")
            say(f"the acknowledgement did not get through yet: {type(error).__name__}")
            time.sleep(0.5)


def quiet_after_a_restart(consumer):
    try:
        expect_silence(consumer, 3)
    except Failed:
        raise
    except Exception as error:
        say(f"a receive failed, which is allowed right after the restart: {type(error).__name__}")
        time.sleep(0.5)
