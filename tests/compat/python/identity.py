"""What makes a message, a topic or a group the same one: message ids, namespaces. And what belongs to a message: its trace context."""

from harness import Unsupported, collect, expect_once, expect_silence, require, send_all, text
from rocketmq import Message


class Fixed(Message):
    """A message that keeps the first id it is given: this client's producer gives a new one to each send, though not to its own retries."""

    @property
    def message_id(self):
        return getattr(self, "_first_id", None)

    @message_id.setter
    def message_id(self, message_id):
        if self.message_id is None:
            self._first_id = message_id


def dedup(run):
    for kind in ("NORMAL", "FIFO"):
        topic, group = run.topic(f"topic-{kind}", f"type={kind}"), run.group(f"group-{kind}", "retry=1s,1s")
        producer = run.producer()
        run.step(f"sending one message twice to a topic of type {kind}")
        out = Fixed()
        out.topic, out.body = topic, b"once"
        if kind == "FIFO":
            out.message_group = "lane"
        receipts = [producer.send(out) for _ in range(2)]
        ids = [receipt.message_id for receipt in receipts]
        require(ids == [out.message_id] * 2, f"the receipts have message ids {ids} instead of twice `{out.message_id}`")
        offsets = [receipt.offset for receipt in receipts]
        require(offsets[0] == offsets[1], f"the receipts have offsets {offsets}")
        consumer = run.simple_consumer(group, topic)
        expect_once([text(one) for one in collect(consumer, 1, 15)], ["once"])
        expect_silence(consumer, 4)
        run.expect_no_lag(group, topic)


def trace_context(run):
    raise Unsupported("the client neither sets a message's trace context nor shows it")


def namespace(run):
    spaces = [f"{side}-{run.run_id}" for side in ("left", "right")]
    topic, group = run.name("topic"), run.name("group")
    for space in spaces:
        run.ask(f"topic {topic} type=NORMAL namespace={space}")
        run.ask(f"group {group} start=earliest namespace={space}")
    run.step("sending to the same topic name in two namespaces")
    sent = {space: [f"{space} {number}" for number in range(10)] for space in spaces}
    for space in spaces:
        send_all(run.producer(namespace=space), topic, sent[space])
    run.step("receiving with the same group name in two namespaces")
    for space in spaces:
        consumer = run.simple_consumer(group, topic, namespace=space)
        got = collect(consumer, 10, 15)
        expect_once([text(one) for one in got], sent[space])
        names = {(one.namespace, one.topic) for one in got}
        require(names == {(space, topic)}, f"they came as of {names} instead of {(space, topic)}")
        expect_silence(consumer, 3)
    for space in spaces:
        run.expect_no_lag(group, topic, space)
