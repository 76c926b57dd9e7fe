/** A listener that remembers every delivery, so that scenarios can compare what came instead of sleeping. */
import { ConsumeResult } from 'rocketmq-client-nodejs';
import { now, require, sleep, text } from './harness.js';

// How often waiting looks at the deliveries.
const LOOK_MS = 50;

/** Answers with `decide(delivery)`, which tells whether the message counts as consumed; by default it always does. */
export class Inbox {
  #decide;
  deliveries = [];

  constructor(decide = () => true) {
    this.#decide = decide;
  }

  async consume(message) {
    const delivery = { body: text(message), attempt: message.deliveryAttempt, at: now() };
    this.deliveries.push(delivery);
    return this.#decide(delivery) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE;
  }

  bodies() {
    return this.deliveries.map(delivery => delivery.body);
  }

  async waitFor(count, seconds) {
    const deadline = now() + seconds;
    while (this.deliveries.length < count) {
      require(now() < deadline, `${this.deliveries.length} of ${count} deliveries within ${seconds} s`);
      await sleep(LOOK_MS);
    }
  }

  /** Returns when nothing has come for so long. Gives up on an endless stream: the caller's comparison then says what came. */
  async waitQuiet(seconds, atMost = 30) {
    const deadline = now() + atMost;
    let seen = this.deliveries.length;
    let since = now();
    while (now() - since < seconds && now() < deadline) {
      await sleep(LOOK_MS);
      if (this.deliveries.length !== seen) {
        seen = this.deliveries.length;
        since = now();
      }
    }
  }
}
