"""Limits and refusals: sizes, empty bodies, illegal names. Afterwards the server still serves."""

import logging

from harness import Failed, collect, expect_once, expect_silence, message, require, say, send_all, text

LARGEST_BODY = 4 * 1024 * 1024


class ClientLog(logging.Handler):
    """Keeps the client's own log lines: when a route is refused, this client tells the status code only there."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("rocketmq-python-client").addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger("rocketmq-python-client").removeHandler(self)


def expect_refused(what, codes, call):
    """`call` must be refused, either by the client itself (`codes` is then not looked at) or by the server with one of the codes."""
    from rocketmq.v5.exception import IllegalArgumentException, IllegalStateException

    with ClientLog() as log:
        try:
            call()
        except (IllegalArgumentException, IllegalStateException) as local:
            say(f"{what}: refused by the client itself: {local}")
            return
        except Exception as refusal:
            code = getattr(refusal, "code", None)
            said = str(refusal) if isinstance(code, int) else f"{refusal}; client log: {log.lines}"
            require(any(str(known) in said for known in codes), f"{what}: refused, but not with one of {codes}: {said}")
            say(f"{what}: refused by the server: {said}")
            return
    raise Failed(f"{what}: accepted")


def expect_well(run, producer, topic, group):
    """The server still takes and delivers a message."""
    run.step("checking that the server is well")
    send_all(producer, topic, ["still well"])
    consumer = run.simple_consumer(group, topic)
    expect_once([text(got) for got in collect(consumer, 1, 15)], ["still well"])
    expect_silence(consumer, 3)


def pattern(size):
    """A body that differs everywhere, so that a lost or swapped piece shows."""
    return b"".join(index.to_bytes(8, "big") for index in range(size // 8)) + b"x" * (size % 8)


def body_4m(run):
    topic, group = run.topic(), run.group()
    body = pattern(LARGEST_BODY)
    run.step("sending 4 MiB")
    run.producer().send(message(topic, body))
    run.step("receiving 4 MiB")
    consumer = run.simple_consumer(group, topic)
    [got] = collect(consumer, 1, 30)
    require(got.body == body, f"sent {len(body)} bytes and received {len(got.body)} different ones")
    require(not got.corrupted, "the client found the body's digest wrong")


def body_too_big(run):
    topic, group = run.topic(), run.group()
    producer = run.producer()
    # The limit comes with the settings, and those with the first use of a topic.
    send_all(producer, topic, ["still well"])
    run.step("sending 4 MiB + 1 byte")
    expect_refused("body of 4 MiB + 1", [41301], lambda: producer.send(message(topic, pattern(LARGEST_BODY + 1))))
    consumer = run.simple_consumer(group, topic)
    expect_once([text(got) for got in collect(consumer, 1, 15)], ["still well"])
    expect_silence(consumer, 4)


def body_empty(run):
    topic, group = run.topic(), run.group()
    producer = run.producer()
    run.step("sending an empty body")
    expect_refused("empty body", [41302], lambda: producer.send(message(topic, b"")))
    expect_well(run, producer, topic, group)


def illegal_names(run):
    topic, group = run.topic(), run.group()
    producer = run.producer()

    def send(change):
        out = message(topic, "never stored")
        change(out)
        producer.send(out)

    def set_to(field, value):
        return lambda: send(lambda out: setattr(out, field, value))

    run.step("sending with illegal names")
    expect_refused("topic with a space", [40002], lambda: producer.send(message("bad topic", "x")))
    expect_refused("topic of 128 characters", [40002], lambda: producer.send(message("t" * 128, "x")))
    expect_refused("system topic", [40002], lambda: producer.send(message("TBW102", "x")))
    expect_refused("tag with a bar", [40004], set_to("tag", "a|b"))
    expect_refused("blank tag", [40004], set_to("tag", "  "))
    expect_refused("blank key", [40005], set_to("keys", "  "))
    expect_refused("reserved property", [40007], lambda: send(lambda out: out.add_property("TAGS", "x")))
    expect_refused("property key with a control character", [40007], lambda: send(lambda out: out.add_property("a\x01b", "x")))

    run.step("receiving with illegal groups")
    expect_refused("group with a space", [40003], lambda: run.simple_consumer("bad group", topic).receive(1, 10))
    expect_refused("group of 121 characters", [40003], lambda: run.simple_consumer("g" * 121, topic).receive(1, 10))
    expect_well(run, producer, topic, group)


def unknown_topic(run):
    topic, group = run.name("fresh"), run.name("group")
    producer = run.producer()
    run.step("sending to a topic nobody created")
    send_all(producer, topic, ["first use"])
    consumer = run.simple_consumer(group, topic)
    run.step("receiving with a group nobody created")
    expect_once([text(got) for got in collect(consumer, 1, 20)], ["first use"])
    run.step("sending to a topic that must not be created")
    # Not found, illegal or forbidden: the name is well formed, but only the server makes such topics.
    expect_refused("topic `%illegal%`", [40402, 40002, 40300], lambda: producer.send(message("%illegal%", "x")))
    expect_silence(consumer, 3)
