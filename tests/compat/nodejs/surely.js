/** Calls for scenarios in which the server is away for a moment: they go on until there is an answer. */
import { now, oneLine, require, say, sleep } from './harness.js';

const PAUSE_MS = 200;
const TOO_MANY_REQUESTS = 42900;
const NOT_IMPLEMENTED = 50100;

/** Sends until the message is acknowledged. */
export async function sendSurely(producer, message) {
  const deadline = now() + 30;
  for (;;) {
    try {
      await producer.send(message);
      return;
    } catch (error) {
      require(!isFinal(error), `a send was refused: ${oneLine(error)}`);
      require(now() < deadline, `no send was acknowledged within 30 s: ${oneLine(error)}`);
      say(`a send failed and is repeated: ${oneLine(error).slice(0, 120)}`);
      await sleep(PAUSE_MS);
    }
  }
}

/** Tells whether the acknowledgement was accepted; after a restart a handle may have ended. */
export async function ackSurely(consumer, message) {
  const deadline = now() + 20;
  for (;;) {
    try {
      await consumer.ack(message);
      return true;
    } catch (error) {
      if (isFinal(error)) {
        say(`an acknowledgement was refused: ${oneLine(error)}`);
        return false;
      }
      require(now() < deadline, `no acknowledgement got through within 20 s: ${oneLine(error)}`);
      await sleep(PAUSE_MS);
    }
  }
}

/** Takes a call that breaks for one that brought nothing. */
export async function receiveSurely(consumer, most, invisibleMs) {
  try {
    return await consumer.receive(most, invisibleMs);
  } catch (error) {
    require(!isFinal(error), `a receive was refused: ${oneLine(error)}`);
    say(`a receive broke: ${oneLine(error).slice(0, 120)}`);
    await sleep(PAUSE_MS);
    return [];
  }
}

/** Whether the server answered and said something that will not change by itself. gRPC's own codes are below 100. */
function isFinal(error) {
  const code = error.code ?? 0;
  return code !== TOO_MANY_REQUESTS && (code >= 40000 && code < 50000 || code === NOT_IMPLEMENTED);
}
