/** Faults: the server or the consumer is killed, and nothing acknowledged is lost or repeated. */
import { collect, expectSilence, Failed, now, oneLine, require, say, sendAll, sleep, text } from './harness.js';
import { Inbox } from './inbox.js';

// The client acknowledges right after the listener; what was consumed this long before the kill counts as acknowledged.
const SETTLED_S = 2;

/** Sends numbered messages until it is stopped and remembers which were acknowledged. */
class Stream {
  #stopped = false;
  #sending;
  acknowledged = new Map();

  constructor(producer, topic) {
    this.#sending = this.#send(producer, topic);
  }

  async #send(producer, topic) {
    for (let index = 0; !this.#stopped; index++) {
      const body = `stream ${index}`;
      try {
        await producer.send({ topic, body: Buffer.from(body) });
        this.acknowledged.set(body, now());
        await sleep(20);
      } catch (error) {
        say(`send of \`${body}\` failed, which is allowed while the server is away: ${oneLine(error).slice(0, 120)}`);
        await sleep(200);
      }
    }
  }

  async stop() {
    this.#stopped = true;
    const stuck = sleep(20_000, true, { ref: false });
    require(!await Promise.race([ this.#sending, stuck ]), 'a send did not return within 20 s');
    return this.acknowledged;
  }
}

export async function serverKilled(run) {
  const topic = await run.topic();
  const group = await run.group();
  const inbox = new Inbox();
  await run.pushConsumer(group, topic, inbox);
  const stream = new Stream(await run.producer(), topic);
  run.step('sending and receiving before the kill');
  await inbox.waitFor(20, 15);
  await sleep(3_000);
  const killedAt = now();
  const settled = new Set(inbox.deliveries.filter(one => one.at < killedAt - SETTLED_S).map(one => one.body));
  run.step('asking for a restart');
  await run.ask('restart');
  const restartedAt = now();
  run.step('sending and receiving after the restart');
  await sleep(6_000);
  const acknowledged = await stream.stop();
  say(`${acknowledged.size} sends acknowledged, ${settled.size} messages consumed for certain before the kill`);
  require([ ...acknowledged.values() ].some(at => at > restartedAt), 'no send was acknowledged after the restart');
  await waitForAll(inbox, acknowledged, 75);
  await inbox.waitQuiet(4);
  const after = inbox.deliveries.filter(one => one.at > restartedAt);
  require(after.length > 0, 'the consumer received nothing after the restart');
  say(`first delivery ${(after[0].at - restartedAt).toFixed(1)} s after the restart`);
  const again = inbox.deliveries.filter(one => one.at > killedAt && settled.has(one.body));
  require(again.length === 0, `${again.length} acknowledged messages came again, the first is \`${again[0]?.body}\``);
}

async function waitForAll(inbox, expected, seconds) {
  const deadline = now() + seconds;
  for (;;) {
    const got = new Set(inbox.bodies());
    const missing = [ ...expected.keys() ].filter(body => !got.has(body));
    if (missing.length === 0) return;
    require(now() < deadline, `${missing.length} acknowledged sends were not received within ${seconds} s: ${missing.slice(0, 5)}`);
    await sleep(200);
  }
}

export async function consumerKilled(run) {
  const topic = await run.topic();
  const group = await run.group();
  await sendAll(await run.producer(), topic, Array.from({ length: 10 }, (_, index) => `inherited ${index}`));
  const consumer = await run.simpleConsumer(group, topic);
  run.step('receiving ten and acknowledging five');
  const got = await collect(consumer, 10, 8, { invisibleMs: 10_000, batch: 10, ack: false });
  for (const one of got.filter(wasAcknowledged)) await consumer.ack(one);
  run.step('asking to be killed');
  await run.ask('kill-me consumer_killed_heir');
  throw new Failed('the runner answered `kill-me` instead of killing this program');
}

/** Both lives of the consumer must agree on the five; the body tells. */
function wasAcknowledged(got) {
  return Number(text(got).split(' ')[1]) < 5;
}

export async function consumerKilledHeir(run) {
  const topic = run.name('topic', 'consumer_killed');
  const group = run.name('group', 'consumer_killed');
  const consumer = await run.simpleConsumer(group, topic);
  run.step('waiting for the five that were not acknowledged');
  const got = await collect(consumer, 5, 30);
  require(!got.some(wasAcknowledged), `acknowledged ones came again: ${got.map(text)}`);
  require(new Set(got.map(text)).size === 5, `expected five different messages: ${got.map(text)}`);
  require(got.every(one => one.deliveryAttempt === 2), `the redeliveries have attempts ${got.map(one => one.deliveryAttempt)} instead of 2`);
  run.step('expecting nothing else');
  await expectSilence(consumer, 12);
  await run.expectNoLag(group, topic);
}

export async function producerRestartHandle(run) {
  const topic = await run.topic();
  const group = await run.group();
  await sendAll(await run.producer(), topic, [ 'held across the restart' ]);
  const consumer = await run.simpleConsumer(group, topic);
  run.step('receiving before the restart');
  const [ held ] = await collect(consumer, 1, 15, { invisibleMs: 30_000, ack: false });
  const receivedAt = now();
  run.step('asking for a restart');
  await run.ask('restart');
  run.step('acknowledging with the handle from before the restart');
  await acknowledge(consumer, held, receivedAt + 25);
  run.step('expecting no redelivery after the invisible duration');
  while (now() < receivedAt + 35) await quietAfterARestart(consumer);
  await run.expectNoLag(group, topic);
}

/** The connection may need a moment to come back; only an answer of the server is final. */
async function acknowledge(consumer, held, deadline) {
  for (;;) {
    try {
      await consumer.ack(held);
      return;
    } catch (error) {
      // In-body codes have five digits; smaller ones mean that the call itself broke.
      require(!(error.code >= 10000), `the acknowledgement was refused: ${error.message}`);
      require(now() < deadline, `the acknowledgement did not get through: ${error.message}`);
      say(`the acknowledgement did not get through yet: ${oneLine(error)}`);
      await sleep(500);
    }
  }
}

async function quietAfterARestart(consumer) {
  try {
    await expectSilence(consumer, 3);
  } catch (error) {
    if (error instanceof Failed) throw error;
    say(`a receive failed, which is allowed right after the restart: ${oneLine(error)}`);
    await sleep(500);
  }
}
