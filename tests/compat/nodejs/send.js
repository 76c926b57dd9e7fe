/** Producers: what is sent arrives, once and unchanged. */
import { isDeepStrictEqual } from 'node:util';
import { collect, expectOnce, expectSilence, require, say, text } from './harness.js';

// Longer than a redelivery caused by a lost answer would need to show up, short enough for a scenario.
const QUIET_S = 4;

export async function sendSync(run) {
  const topic = await run.topic();
  const group = await run.group();
  run.step('sending 20 messages');
  const producer = await run.producer();
  const sent = new Map();
  for (let index = 0; index < 20; index++) {
    const out = {
      topic,
      body: Buffer.from(`body ${index} – ünïcode`),
      tag: `tag-${index % 3}`,
      keys: [ `key-${index}`, `order-${index}` ],
      properties: new Map([[ 'plain', `value ${index}` ], [ 'number', `${index}` ], [ 'non-ascii', `größe 测试 ${index}` ]]),
    };
    const receipt = await producer.send(out);
    require(receipt.messageId, `receipt ${index} has no message id`);
    sent.set(receipt.messageId, out);
  }
  require(sent.size === 20, 'two receipts have the same message id');

  run.step('receiving 20 messages');
  const consumer = await run.simpleConsumer(group, topic);
  for (const got of await collect(consumer, 20, 30)) {
    const out = sent.get(got.messageId);
    require(out, `\`${text(got)}\` has message id \`${got.messageId}\`, which no receipt had or which came before`);
    sent.delete(got.messageId);
    expectEqual(out, got);
  }
  run.step('expecting nothing else');
  await expectSilence(consumer, QUIET_S);
}

function expectEqual(out, got) {
  for (const what of [ 'topic', 'body', 'tag', 'keys', 'properties' ]) {
    require(isDeepStrictEqual(out[what], got[what]), `${what} was sent as ${show(out[what])} and received as ${show(got[what])}`);
  }
  require(!got.corrupted, 'the client found the body\'s digest wrong');
  require(got.deliveryAttempt === 1, `the first delivery has attempt ${got.deliveryAttempt}`);
  require(got.bornTimestamp && got.bornHost, 'born timestamp or born host is missing');
}

function show(value) {
  return JSON.stringify(value instanceof Map ? [ ...value ] : value);
}

export async function sendAsync(run) {
  const topic = await run.topic();
  const group = await run.group();
  const producer = await run.producer();
  const bodies = Array.from({ length: 100 }, (_, index) => `async ${index}`);
  run.step('sending 100 messages at the same time');
  const receipts = await Promise.all(bodies.map(body => producer.send({ topic, body: Buffer.from(body) })));
  const ids = new Set(receipts.map(receipt => receipt.messageId));
  require(ids.size === 100 && !ids.has(''), `100 sends gave ${ids.size} different message ids`);
  say('all sends acknowledged');
  run.step('receiving 100 messages');
  const consumer = await run.simpleConsumer(group, topic);
  expectOnce((await collect(consumer, 100, 40)).map(text), bodies);
  await expectSilence(consumer, QUIET_S);
}
