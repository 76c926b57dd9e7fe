/** Simple consumers: batches, invisible durations, receipt handles. */
import { collect, expectOnce, expectSilence, Failed, now, require, say, sendAll, text } from './harness.js';

// The shortest invisible duration the protocol allows for a receive.
const SHORT_S = 10;
// A redelivery later than this after the end of the invisible duration is too late.
const SLACK_S = 5;

export async function simpleReceiveAck(run) {
  const topic = await run.topic();
  const group = await run.group();
  const bodies = Array.from({ length: 20 }, (_, index) => `batch ${index}`);
  await sendAll(await run.producer(), topic, bodies);
  run.step('receiving in batches of 8 and acknowledging');
  const consumer = await run.simpleConsumer(group, topic);
  const got = await collect(consumer, 20, 20, { invisibleMs: SHORT_S * 1000, batch: 8 });
  expectOnce(got.map(text), bodies);
  run.step('expecting nothing after the invisible duration');
  await expectSilence(consumer, SHORT_S + 3);
  await run.expectNoLag(group, topic);
}

/** One message and the times before and after the call that brought it: the lease began between the two. */
async function receiveOne(consumer, invisibleS, seconds = 20) {
  const deadline = now() + seconds;
  while (now() < deadline) {
    const before = now();
    const got = await consumer.receive(1, invisibleS * 1000);
    if (got.length > 0) {
      require(got.length === 1, `asked for one message and got ${got.length}`);
      return { message: got[0], before, after: now() };
    }
  }
  throw new Failed(`nothing came within ${seconds} s`);
}

/** The message comes again not before `invisibleS` and not later than the slack allows. */
async function expectRedelivery(consumer, lease, invisibleS, attempt) {
  const again = await receiveOne(consumer, 30, invisibleS + SLACK_S + 2);
  const [ longest, shortest ] = [ again.after - lease.before, again.after - lease.after ];
  say(`came again ${longest.toFixed(2)} s after the lease began`);
  require(longest >= invisibleS, `came again after ${longest.toFixed(2)} s, before its ${invisibleS} s were over`);
  require(shortest <= invisibleS + SLACK_S, `came again only after ${shortest.toFixed(2)} s instead of ${invisibleS} s`);
  expectAttempt(again.message, attempt);
  return again.message;
}

function expectAttempt(message, attempt) {
  require(message.deliveryAttempt === attempt, `this delivery has attempt ${message.deliveryAttempt} instead of ${attempt}`);
}

export async function simpleExpireRedeliver(run) {
  const topic = await run.topic();
  const group = await run.group();
  await sendAll(await run.producer(), topic, [ 'expires' ]);
  const consumer = await run.simpleConsumer(group, topic);
  run.step('receiving without an acknowledgement');
  const first = await receiveOne(consumer, SHORT_S);
  expectAttempt(first.message, 1);
  run.step('waiting for the redelivery');
  await consumer.ack(await expectRedelivery(consumer, first, SHORT_S, 2));
  await run.expectNoLag(group, topic);
}

export async function simpleChangeInvisible(run) {
  const topic = await run.topic();
  const group = await run.group();
  const producer = await run.producer();
  const consumer = await run.simpleConsumer(group, topic);
  await sendAll(producer, topic, [ 'changed and left' ]);
  run.step('receiving with 30 s and changing to 10 s');
  const first = await receiveOne(consumer, 30);
  const before = now();
  await consumer.changeInvisibleDuration(first.message, SHORT_S * 1000);
  const after = now();
  run.step('waiting for the redelivery');
  await consumer.ack(await expectRedelivery(consumer, { before, after }, SHORT_S, 2));

  await sendAll(producer, topic, [ 'changed and acknowledged' ]);
  run.step('acknowledging with the changed handle');
  const second = (await receiveOne(consumer, 30)).message;
  require(text(second) === 'changed and acknowledged', `\`${text(second)}\` came again after its acknowledgement`);
  const original = second.receiptHandle;
  await consumer.changeInvisibleDuration(second, SHORT_S * 1000);
  say(`the change ${second.receiptHandle === original ? 'kept' : 'replaced'} the receipt handle`);
  await consumer.ack(second);
  await expectSilence(consumer, SHORT_S + 3);
  await run.expectNoLag(group, topic);
}

export async function simpleLateAck(run) {
  const topic = await run.topic();
  const group = await run.group();
  await sendAll(await run.producer(), topic, [ 'late' ]);
  const consumer = await run.simpleConsumer(group, topic);
  run.step('letting the invisible duration end');
  const first = await receiveOne(consumer, SHORT_S);
  let newer = await receiveOne(consumer, SHORT_S, SHORT_S + SLACK_S + 2);
  expectAttempt(newer.message, 2);
  run.step('acknowledging with the old handle');
  if (!await refused(consumer, first.message)) {
    // Success is allowed when it changed nothing: then the message comes a third time.
    newer = await receiveOne(consumer, 30, SHORT_S + SLACK_S + 2);
    expectAttempt(newer.message, 3);
  }
  run.step('acknowledging the new delivery');
  await consumer.ack(newer.message);
  await expectSilence(consumer, SHORT_S + 3);
  await run.expectNoLag(group, topic);
}

async function refused(consumer, message) {
  try {
    await consumer.ack(message);
  } catch (refusal) {
    // In-body codes have five digits; smaller ones mean that the call itself broke.
    require(refusal.code >= 10000, `the late acknowledgement was not answered: ${refusal.message}`);
    say(`the late acknowledgement was refused: ${refusal.message}`);
    return true;
  }
  say('the late acknowledgement was answered with success');
  return false;
}
