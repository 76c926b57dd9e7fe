"""What consumers finished, in order, kept by the runner as notes so that it outlives this program.

A note is `<consumer> <lane> <number>`. A lane is a stream whose messages have an order: a message group, or a lite topic.
"""

import threading
import time

from harness import require, say


class Ledger:
    """Take down a message just before it is acknowledged: then a message that comes again after a kill is here twice, never missing."""

    def __init__(self, run):
        self._run = run
        self._lock = threading.Lock()
        self._entries = [tuple(note.split()) for note in run.notes()]

    def add(self, who, body):
        """`body` is `<lane> <number>`."""
        with self._lock:
            self._run.note(f"{who} {body}")
            self._entries.append((who, *body.split()))

    def consume(self, who, body):
        """A listener that takes longer for every other message: only if the client waits for it do they stay in order."""
        if int(body.split()[1]) % 2 == 0:
            time.sleep(0.02)
        self.add(who, body)
        return True

    def numbers(self, who, lane):
        with self._lock:
            return [int(number) for entry_who, entry_lane, number in self._entries if (entry_who, entry_lane) == (who, lane)]

    def lanes(self, who):
        """The lane of each message, in the order of the first successes."""
        with self._lock:
            return [lane for entry_who, lane, _ in dict.fromkeys(self._entries) if entry_who == who]

    def count(self, who):
        """How many different messages."""
        with self._lock:
            return len({entry for entry in self._entries if entry[0] == who})

    def expect_in_order(self, who, lane, expected, once):
        """The first successes are `expected` in this order. `once`: and nothing came a second time."""
        came = self.numbers(who, lane)
        firsts = list(dict.fromkeys(came))
        require(firsts == list(expected), f"{who} finished {lane} in the order {firsts} instead of {list(expected)}")
        if len(came) > len(firsts):
            say(f"{who} finished {len(came) - len(firsts)} messages of {lane} more than once")
        require(not once or came == firsts, f"{who} got messages of {lane} more than once: {came}")

