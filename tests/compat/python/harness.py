"""What every scenario uses: the line protocol to the runner, the verdicts, and clients with short waits.

A scenario is a function of a `Run`. Returning means it held; `Failed` and `Unsupported` say otherwise. Lines that start with `@gantry ` are
for the runner; everything else a scenario prints is its log.
"""

import os
import sys
import threading
import time
import traceback

# The runner gives a scenario 150 s; ending a little earlier lets the program say where it got stuck.
PATIENCE_S = 140
# How long one long poll waits when nothing is there. Short, so that loops can look at the clock.
AWAIT_S = 3
# Clients are shut down politely, but a verdict does not wait longer than this for them.
GOODBYE_S = 4


class Failed(Exception):
    """The scenario did not hold."""


class Unsupported(Exception):
    """This client cannot play the scenario."""


_printing = threading.Lock()


def say(text):
    """A line of the program's own log. Whole, whoever else prints."""
    with _printing:
        sys.stdout.write(text.replace("\n", " ") + "\n")
        sys.stdout.flush()


def require(condition, reason):
    if not condition:
        raise Failed(reason)


class Run:
    """One play of one scenario: its names, its runner, and the clients it opened."""

    def __init__(self, scenario, endpoint, tls, run_id):
        self.scenario = scenario
        self.endpoint = endpoint
        self.tls = tls
        self.run_id = run_id
        self.doing = "starting"
        self._open = []

    # -- talking to the runner ------------------------------------------------------------------------------------------------------

    def step(self, text):
        """Names what happens now, for the log and for the verdict if it never ends."""
        self.doing = text
        say(f"step: {text}")

    def ask(self, text):
        """Asks the runner and returns the rest of its `done` line as words."""
        say(f"@gantry ask {text}")
        answer = sys.stdin.readline()
        if not answer:
            raise Failed(f"the runner closed standard input instead of answering `ask {text}`")
        words = answer.split()
        if not words or words[0] != "done":
            raise Failed(f"`ask {text}` was answered `{answer.strip()}`")
        return words[1:]

    def name(self, suffix, scenario=None):
        return f"{scenario or self.scenario}-{self.run_id}-{suffix}"

    def topic(self, suffix="topic", *options):
        name = self.name(suffix)
        self.ask(" ".join(["topic", name, *options]))
        return name

    def group(self, suffix="group", *options):
        name = self.name(suffix)
        self.ask(" ".join(["group", name, *options, "start=earliest"]))
        return name

    def note(self, text):
        """The runner keeps the text for the heirs of this program."""
        say(f"@gantry note {text}")

    def notes(self):
        return [note for note in " ".join(self.ask("notes")).split(";") if note]

    def middle(self, heir):
        """The middle of the scenario: the runner may kill the server or this program. Tells whether the server was restarted."""
        self.step("the middle")
        answer = self.ask(f"middle {heir}")
        require(answer in (["calm"], ["restarted"]), f"`ask middle` was answered {answer}")
        return answer == ["restarted"]

    def lag(self, group, topic, namespace=""):
        words = self.ask(f"lag {group} {topic}" + (f" namespace={namespace}" if namespace else ""))
        require(len(words) == 3, f"the runner answered `ask lag` with {len(words)} numbers instead of 3")
        return tuple(int(word) for word in words)

    def expect_no_lag(self, group, topic, namespace="", seconds=10):
        """Acks travel apart from the deliveries a scenario sees, so the lag may take a moment to reach zero."""
        deadline = time.monotonic() + seconds
        while True:
            lag = self.lag(group, topic, namespace)
            if lag == (0, 0, 0):
                return
            if time.monotonic() > deadline:
                raise Failed(f"lag of group `{group}` is ready={lag[0]} in_flight={lag[1]} waiting={lag[2]} instead of 0")
            time.sleep(0.5)

    # -- clients --------------------------------------------------------------------------------------------------------------------

    def _configuration(self, namespace=""):
        from rocketmq import ClientConfiguration, Credentials

        return ClientConfiguration(self.endpoint, Credentials(), namespace)

    def opened(self, client):
        client.startup()
        self._open.append(client)
        return client

    def producer(self, topic=None, checker=None, namespace=""):
        """The topic is only needed by a checker: the server asks producers that named the topic when they started."""
        from rocketmq import Producer

        return self.opened(Producer(self._configuration(namespace), {topic} if topic else None, checker, tls_enable=self.tls))

    def simple_consumer(self, group, topic, expression="*", namespace=""):
        from rocketmq import SimpleConsumer

        return self.opened(
            SimpleConsumer(
                self._configuration(namespace), group, {topic: as_filter(expression)}, await_duration=AWAIT_S, tls_enable=self.tls
            )
        )

    def push_consumer(self, group, topic, listener, expression="*"):
        from rocketmq import PushConsumer

        return self.opened(PushConsumer(self._configuration(), group, listener, {topic: as_filter(expression)}, tls_enable=self.tls))

    def lite_push_consumer(self, group, topic, listener):
        from rocketmq import LitePushConsumer

        return self.opened(LitePushConsumer(self._configuration(), group, topic, listener, tls_enable=self.tls))

    def lite_simple_consumer(self, group, topic):
        from rocketmq import LiteSimpleConsumer

        return self.opened(LiteSimpleConsumer(topic, self._configuration(), group, await_duration=AWAIT_S, tls_enable=self.tls))

    def goodbye(self):
        """Shuts the clients down, newest first, on a thread nobody waits for too long."""

        def shut_down():
            for client in reversed(self._open):
                try:
                    client.shutdown()
                except Exception as error:  # the verdict stands already
                    say(f"shutdown of a client failed: {error}")

        thread = threading.Thread(target=shut_down, daemon=True)
        thread.start()
        thread.join(GOODBYE_S)
        if thread.is_alive():
            say(f"note: the clients did not shut down within {GOODBYE_S} s")


def as_filter(expression):
    from rocketmq import FilterExpression

    return expression if isinstance(expression, FilterExpression) else FilterExpression(expression)


class Task:
    """Work beside the scenario. What goes wrong in it is raised where the scenario looks at it."""

    def __init__(self, work):
        self._failure = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work):
        try:
            work(self._stopping)
        except Exception as failure:
            self._failure = failure

    def look(self):
        if self._failure:
            raise self._failure

    def end(self, seconds=20):
        """Waits for its end. Without `stop` before, the work must end by itself."""
        self._thread.join(seconds)
        self.look()
        require(not self._thread.is_alive(), f"a task did not end within {seconds} s")

    def stop(self):
        self._stopping.set()
        self.end()


def wait_until(what, holds, seconds, tasks=()):
    """Looks often until `holds`; fails when the time is over or one of the tasks failed."""
    deadline = time.monotonic() + seconds
    while not holds():
        for task in tasks:
            task.look()
        require(time.monotonic() < deadline, f"not within {seconds} s: {what()}")
        time.sleep(0.05)


# -- messages -----------------------------------------------------------------------------------------------------------------------


def message(topic, body, tag=None, **fields):
    """`fields` are further attributes of the client's message, such as `message_group`."""
    from rocketmq import Message

    built = Message()
    built.topic = topic
    built.body = body if isinstance(body, bytes) else body.encode()
    if tag:
        built.tag = tag
    for name, value in fields.items():
        setattr(built, name, value)
    return built


def refused(error):
    """Whether the server answered, and said something that will not change by itself. (42900: too many requests.)"""
    code = getattr(error, "code", None)
    return isinstance(code, int) and (40000 <= code < 50000 or code == 50100) and code != 42900


def send_surely(producer, build, seconds=30):
    """Sends what `build` makes until it is acknowledged: the server may be away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return producer.send(build())
        except Exception as error:
            require(not refused(error), f"a send was refused: {error}")
            require(time.monotonic() < deadline, f"no send was acknowledged within {seconds} s: {error}")
            say(f"a send failed and is repeated: {' '.join(str(error).split())[:120]}")
            time.sleep(0.2)


def ack_surely(consumer, delivered, seconds=20):
    """Acknowledges until there is an answer. Tells whether it was OK; after a restart a handle may have ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            consumer.ack(delivered)
            return True
        except Exception as error:
            if isinstance(getattr(error, "code", None), int):
                say(f"an acknowledgement was refused: {error}")
                return False
            require(time.monotonic() < deadline, f"no acknowledgement got through within {seconds} s: {error}")
            time.sleep(0.2)


def receive_surely(consumer, most, invisible_s):
    """Receives; a call that breaks while the server is away brought nothing."""
    try:
        return consumer.receive(most, invisible_s)
    except Exception as error:
        require(not isinstance(getattr(error, "code", None), int), f"a receive was refused: {error}")
        say(f"a receive broke: {' '.join(str(error).split())[:120]}")
        time.sleep(0.2)
        return []


def send_all(producer, topic, bodies, tag=None):
    """Sends one by one and returns the message ids by body."""
    ids = {}
    for body in bodies:
        receipt = producer.send(message(topic, body, tag))
        require(receipt.message_id, f"the receipt of `{body}` has no message id")
        ids[body] = receipt.message_id
    return ids


def text(delivered):
    return delivered.body.decode()


def collect(consumer, wanted, seconds, invisible_s=30, batch=16, ack=True):
    """Receives until `wanted` messages have come; fails when the time is over."""
    got = []
    deadline = time.monotonic() + seconds
    while len(got) < wanted:
        require(time.monotonic() < deadline, f"received {len(got)} of {wanted} messages within {seconds} s")
        batch_got = consumer.receive(min(batch, wanted - len(got)), invisible_s)
        for delivered in batch_got:
            if ack:
                consumer.ack(delivered)
        got.extend(batch_got)
    return got


def expect_silence(consumer, seconds, invisible_s=30):
    """Receives for so long; any delivery is a failure."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for delivered in consumer.receive(16, invisible_s):
            raise Failed(f"`{text(delivered)[:60]}` came with attempt {delivered.delivery_attempt}, and nothing should have come")


def expect_once(bodies, expected):
    """Exactly the expected bodies, each once."""
    twice = sorted({body for body in bodies if bodies.count(body) > 1})
    missing = sorted(set(expected) - set(bodies))
    foreign = sorted(set(bodies) - set(expected))
    require(not twice, f"delivered more than once: {twice[:5]}")
    require(not missing, f"{len(missing)} of {len(expected)} not delivered: {missing[:5]}")
    require(not foreign, f"delivered but not expected: {foreign[:5]}")


# -- the life of the process --------------------------------------------------------------------------------------------------------


def leave(line, code):
    """Ends the process at once: the client's threads would keep it alive."""
    say(f"@gantry {line}")
    sys.stderr.flush()
    os._exit(code)


def one_line(error):
    written = " ".join(str(error).split()) or repr(error)
    return written if isinstance(error, Failed) else f"{type(error).__name__}: {written}"


def play(run, scenarios, prepare):
    """Plays the scenario of `run` and leaves the process with its verdict."""
    watchdog = threading.Timer(PATIENCE_S, lambda: leave(f"fail no end after {PATIENCE_S} s while: {run.doing}", 1))
    watchdog.daemon = True
    watchdog.start()
    line, code = "pass", 0
    try:
        prepare()
        scenario = scenarios().get(run.scenario)
        require(scenario, f"this program has no scenario `{run.scenario}`")
        scenario(run)
    except Unsupported as reason:
        line = f"unsupported {reason}"
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        line, code = f"fail {one_line(error)} (while: {run.doing})", 1
    run.goodbye()
    leave(line, code)
