"""Tag expressions: exactly the matching messages, and nothing left over."""

import threading

from harness import collect, expect_once, expect_silence, send_all, text

EXPRESSIONS = {"just-a": "A", "a-or-b": "A || B", "all": "*"}


def tag_filter(run):
    topic = run.topic()
    groups = {suffix: run.group(suffix) for suffix in EXPRESSIONS}
    producer = run.producer()
    sent = {tag: [f"{tag} {index}" for index in range(10)] for tag in ("A", "B", "C", "AB")}
    run.step("sending 40 messages with four tags")
    for tag, bodies in sent.items():
        send_all(producer, topic, bodies, tag)
    expected = {"just-a": sent["A"], "a-or-b": sent["A"] + sent["B"], "all": sum(sent.values(), [])}

    run.step("receiving with three expressions")
    failures = []
    threads = [
        threading.Thread(target=check, args=(run, topic, groups[suffix], EXPRESSIONS[suffix], expected[suffix], failures), daemon=True)
        for suffix in EXPRESSIONS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    run.step("expecting no lag")
    for group in groups.values():
        run.expect_no_lag(group, topic)


def check(run, topic, group, expression, expected, failures):
    """Runs on a thread of its own, so a failure is kept for the scenario instead of raised into nowhere."""
    try:
        consumer = run.simple_consumer(group, topic, expression)
        expect_once([text(got) for got in collect(consumer, len(expected), 30)], expected)
        expect_silence(consumer, 4)
    except Exception as failure:
        failures.append(failure)
