"""A listener that remembers every delivery, so that scenarios can compare what came instead of sleeping."""

import threading
import time
from dataclasses import dataclass

from harness import Failed, text
from rocketmq import ConsumeResult, MessageListener


@dataclass
class Delivery:
    """One call of the listener."""

    body: str
    attempt: int
    at: float


class Inbox(MessageListener):
    """Answers with `decide(delivery)`, which tells whether the message counts as consumed; by default it always does."""

    def __init__(self, decide=lambda delivery: True):
        self._decide = decide
        self._changed = threading.Condition()
        self._deliveries = []

    def consume(self, message):
        delivery = Delivery(text(message), message.delivery_attempt, time.monotonic())
        with self._changed:
            self._deliveries.append(delivery)
            self._changed.notify_all()
        return ConsumeResult.SUCCESS if self._decide(delivery) else ConsumeResult.FAILURE

    def deliveries(self):
        with self._changed:
            return list(self._deliveries)

    def bodies(self):
        return [delivery.body for delivery in self.deliveries()]

    def wait_for(self, count, seconds):
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._deliveries) >= count, seconds):
                raise Failed(f"{len(self._deliveries)} of {count} deliveries within {seconds} s")

    def wait_quiet(self, seconds, at_most=30):
        """Returns when nothing has come for so long. Gives up on an endless stream: the caller's comparison then says what came."""
        deadline = time.monotonic() + at_most
        while time.monotonic() < deadline:
            seen = len(self.deliveries())
            with self._changed:
                if not self._changed.wait_for(lambda: len(self._deliveries) > seen, seconds):
                    return
