"""Producers: what is sent arrives, once and unchanged."""

from harness import collect, expect_once, expect_silence, message, require, say, text

# Longer than a redelivery caused by a lost answer would need to show up, short enough for a scenario.
QUIET_S = 4


def send_sync(run):
    topic, group = run.topic(), run.group()
    run.step("sending 20 messages")
    producer = run.producer()
    sent = {}
    for index in range(20):
        out = message(topic, f"body {index} – ünïcode", tag=f"tag-{index % 3}")
        # The setter of this client adds one key per assignment.
        out.keys = f"key-{index}"
        out.keys = f"order-{index}"
        out.add_property("plain", f"value {index}")
        out.add_property("number", str(index))
        out.add_property("non-ascii", f"größe 测试 {index}")
        receipt = producer.send(out)
        require(receipt.message_id, f"receipt {index} has no message id")
        sent[receipt.message_id] = out
    require(len(sent) == 20, "two receipts have the same message id")

    run.step("receiving 20 messages")
    consumer = run.simple_consumer(group, topic)
    for got in collect(consumer, 20, 30):
        out = sent.pop(got.message_id, None)
        require(out, f"`{text(got)}` has message id `{got.message_id}`, which no receipt had or which came before")
        expect_equal(out, got)
    run.step("expecting nothing else")
    expect_silence(consumer, QUIET_S)


def expect_equal(out, got):
    for what in ("topic", "body", "tag", "keys", "properties"):
        expected, found = getattr(out, what), getattr(got, what)
        require(expected == found, f"{what} was sent as {expected!r} and received as {found!r}")
    require(not got.corrupted, "the client found the body's digest wrong")
    require(got.delivery_attempt == 1, f"the first delivery has attempt {got.delivery_attempt}")
    require(got.born_timestamp and got.born_host, "born timestamp or born host is missing")


def send_async(run):
    topic, group = run.topic(), run.group()
    producer = run.producer()
    bodies = [f"async {index}" for index in range(100)]
    run.step("sending 100 messages with the asynchronous call")
    futures = [producer.send_async(message(topic, body)) for body in bodies]
    ids = {future.result(timeout=20).message_id for future in futures}
    require(len(ids) == 100 and all(ids), f"100 sends gave {len(ids)} different message ids")
    say("all sends acknowledged")
    run.step("receiving 100 messages")
    consumer = run.simple_consumer(group, topic)
    expect_once([text(got) for got in collect(consumer, 100, 40)], bodies)
    expect_silence(consumer, QUIET_S)
