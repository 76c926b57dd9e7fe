/** Limits and refusals: sizes, empty bodies, illegal names. Afterwards the server still serves. */
import { collect, expectOnce, expectSilence, Failed, require, say, sendAll, text, Unsupported } from './harness.js';

const LARGEST_BODY = 4 * 1024 * 1024;
// gRPC's own status for a message above the receiver's limit.
const RESOURCE_EXHAUSTED = 8;

/** `call` must be refused, either by the client itself (`codes` is then not looked at) or by the server with one of the codes. */
export async function expectRefused(what, codes, call) {
  try {
    await call();
  } catch (refusal) {
    // The client's own refusals are plain errors; the server's carry the code of the status.
    const code = refusal.code ?? refusal.cause?.code ?? refusal.cause?.cause?.code;
    if (code === undefined) {
      say(`${what}: refused by the client itself: ${refusal.message}`);
      return;
    }
    require(codes.includes(code), `${what}: refused with ${code} instead of ${codes}: ${refusal.message}`);
    say(`${what}: refused by the server: ${refusal.message}`);
    return;
  }
  throw new Failed(`${what}: accepted`);
}

/** The server still takes and delivers a message. */
async function expectWell(run, producer, topic, group) {
  run.step('checking that the server is well');
  await sendAll(producer, topic, [ 'still well' ]);
  const consumer = await run.simpleConsumer(group, topic);
  expectOnce((await collect(consumer, 1, 15)).map(text), [ 'still well' ]);
  await expectSilence(consumer, 3);
}

/** A body that differs everywhere, so that a lost or swapped piece shows. */
function pattern(size) {
  const body = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) body.writeUInt32BE(at, at);
  return body;
}

export async function body4m(run) {
  const topic = await run.topic();
  const group = await run.group();
  const body = pattern(LARGEST_BODY);
  run.step('sending 4 MiB');
  const producer = await run.producer();
  const receipt = await producer.send({ topic, body });
  require(receipt.messageId, 'the receipt has no message id');
  run.step('receiving 4 MiB');
  const consumer = await run.simpleConsumer(group, topic);
  let got;
  try {
    [ got ] = await collect(consumer, 1, 15);
  } catch (error) {
    if (error.code !== RESOURCE_EXHAUSTED) throw error;
    throw new Unsupported(`the send was accepted; the client cannot receive it: grpc-js takes at most 4 MiB a gRPC message (${error.message})`);
  }
  require(body.equals(got.body), `sent ${body.length} bytes and received ${got.body.length} different ones`);
}

export async function bodyTooBig(run) {
  const topic = await run.topic();
  const group = await run.group();
  const producer = await run.producer();
  // The limit comes with the settings, and those with the first use of a topic.
  await sendAll(producer, topic, [ 'still well' ]);
  run.step('sending 4 MiB + 1 byte');
  await expectRefused('body of 4 MiB + 1', [ 41301 ], () => producer.send({ topic, body: pattern(LARGEST_BODY + 1) }));
  const consumer = await run.simpleConsumer(group, topic);
  expectOnce((await collect(consumer, 1, 15)).map(text), [ 'still well' ]);
  await expectSilence(consumer, 4);
}

export async function bodyEmpty(run) {
  const topic = await run.topic();
  const group = await run.group();
  const producer = await run.producer();
  run.step('sending an empty body');
  await expectRefused('empty body', [ 41302 ], () => producer.send({ topic, body: Buffer.alloc(0) }));
  await expectWell(run, producer, topic, group);
}

export async function illegalNames(run) {
  const topic = await run.topic();
  const group = await run.group();
  const producer = await run.producer();
  const body = Buffer.from('never stored');
  const send = options => () => producer.send({ topic, body, ...options });
  const receive = badGroup => async () => (await run.simpleConsumer(badGroup, topic)).receive(1, 10_000);

  run.step('sending with illegal names');
  await expectRefused('topic with a space', [ 40002 ], send({ topic: 'bad topic' }));
  await expectRefused('topic of 128 characters', [ 40002 ], send({ topic: 't'.repeat(128) }));
  await expectRefused('system topic', [ 40002 ], send({ topic: 'TBW102' }));
  await expectRefused('tag with a bar', [ 40004 ], send({ tag: 'a|b' }));
  await expectRefused('blank tag', [ 40004 ], send({ tag: '  ' }));
  await expectRefused('blank key', [ 40005 ], send({ keys: [ '  ' ] }));
  await expectRefused('reserved property', [ 40007 ], send({ properties: new Map([[ 'TAGS', 'x' ]]) }));
  await expectRefused('property key with a control character', [ 40007 ], send({ properties: new Map([[ 'a\u0001b', 'x' ]]) }));

  run.step('receiving with illegal groups');
  await expectRefused('group with a space', [ 40003 ], receive('bad group'));
  await expectRefused('group of 121 characters', [ 40003 ], receive('g'.repeat(121)));
  await expectWell(run, producer, topic, group);
}

export async function unknownTopic(run) {
  const topic = run.name('fresh');
  const group = run.name('group');
  const producer = await run.producer();
  run.step('sending to a topic nobody created');
  await sendAll(producer, topic, [ 'first use' ]);
  run.step('receiving with a group nobody created');
  const consumer = await run.simpleConsumer(group, topic);
  expectOnce((await collect(consumer, 1, 20)).map(text), [ 'first use' ]);
  run.step('sending to a topic that must not be created');
  // Not found, illegal or forbidden: the name is well formed, but only the server makes such topics.
  await expectRefused('topic `%illegal%`', [ 40402, 40002, 40300 ], () => producer.send({ topic: '%illegal%', body: Buffer.from('x') }));
  await expectSilence(consumer, 3);
}
