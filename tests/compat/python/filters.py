"""Tag expressions and SQL92: exactly the matching messages, and nothing left over."""

import threading
import time

from harness import Failed, ack_surely, collect, expect_once, expect_silence, message, receive_surely, require, say, send_all, text
from ledger import Ledger

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


# -- SQL92 --------------------------------------------------------------------------------------------------------------------------

ILLEGAL_FILTER_EXPRESSION = 40010
COLOURS = ("red", "green", "blue")


def row(number):
    """The properties of message `number`. A missing note is what IS NULL asks for."""
    properties = {"a": str(number), "color": COLOURS[number % 3]}
    if number % 2 == 0:
        properties["note"] = f"note {number}"
    return properties


# By name of the group: the expression, and the same said in Python.
SQL = {
    "and-in": (
        "a > 5 AND color IN ('red', 'blue') AND note IS NOT NULL",
        lambda it: int(it["a"]) > 5 and it["color"] in ("red", "blue") and "note" in it,
    ),
    "between": ("a BETWEEN 10 AND 19", lambda it: 10 <= int(it["a"]) <= 19),
    "equal": ("color = 'green'", lambda it: it["color"] == "green"),
    "or-null": (
        "(note IS NULL AND a <= 3) OR (a >= 25 AND color <> 'red')",
        lambda it: ("note" not in it and int(it["a"]) <= 3) or (int(it["a"]) >= 25 and it["color"] != "red"),
    ),
}
ROWS = 30


def expected_of(name):
    return [f"row {number}" for number in range(ROWS) if SQL[name][1](row(number))]


def sql(expression):
    from rocketmq import FilterExpression
    from rocketmq.grpc_protocol import FilterType

    return FilterExpression(expression, FilterType.SQL)


def sql_filter(run):
    topic = run.topic()
    groups = {name: run.group(name) for name in SQL}
    producer = run.producer()
    run.step("sending rows")
    for number in range(ROWS):
        out = message(topic, f"row {number}")
        for key, value in row(number).items():
            out.add_property(key, value)
        producer.send(out)
    ledger = Ledger(run)
    consumers = {name: run.simple_consumer(group, topic, sql(SQL[name][0])) for name, group in groups.items()}
    run.step("receiving half of what matches")
    for name, consumer in consumers.items():
        take_down(ledger, name, collect(consumer, len(expected_of(name)) // 2, 20))
    restarted = run.middle("sql-filter-heir")
    receive_rest(run, topic, groups, consumers, ledger, once=not restarted)
    expect_illegal(run, topic)


def sql_filter_heir(run):
    topic = run.name("topic", "sql-filter")
    groups = {name: run.name(name, "sql-filter") for name in SQL}
    consumers = {name: run.simple_consumer(group, topic, sql(SQL[name][0])) for name, group in groups.items()}
    receive_rest(run, topic, groups, consumers, Ledger(run), once=False)


def take_down(ledger, name, got):
    for one in got:
        ledger.add(name, text(one))


def receive_rest(run, topic, groups, consumers, ledger, once):
    run.step("receiving the rest")
    for name, consumer in consumers.items():
        expected = expected_of(name)
        deadline = time.monotonic() + 20
        while ledger.count(name) < len(expected):
            require(time.monotonic() < deadline, f"{ledger.count(name)} of {len(expected)} rows for `{SQL[name][0]}` within 20 s")
            for one in receive_surely(consumer, 16, 30):
                take_down(ledger, name, [one])
                ack_surely(consumer, one)
        came = [f"row {number}" for number in ledger.numbers(name, "row")]
        expect_once(came if once else list(dict.fromkeys(came)), expected)
    run.step("expecting nothing else")
    for consumer in consumers.values():
        expect_silence(consumer, 2)
    for group in groups.values():
        run.expect_no_lag(group, topic)


def expect_illegal(run, topic):
    run.step("subscribing with an expression that is none")
    consumer = run.simple_consumer(run.group("illegal"), topic, sql("a > AND color"))
    try:
        consumer.receive(1, 10)
    except Exception as refusal:
        require(getattr(refusal, "code", None) == ILLEGAL_FILTER_EXPRESSION, f"refused, but not with {ILLEGAL_FILTER_EXPRESSION}: {refusal}")
        say(f"refused: {refusal}")
        return
    raise Failed("the illegal expression was accepted")
