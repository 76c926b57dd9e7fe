/** Lite topics: a client gets those that it subscribed to, each in order. This client has a push consumer for them and no simple one. */
import { ConsumeResult } from 'rocketmq-client-nodejs';
import { RETRY_QUICKLY } from './fifo.js';
import { now, oneLine, require, say, sleep, text } from './harness.js';
import { Ledger } from './ledger.js';
import { sendSurely } from './surely.js';
import { Task, waitUntil } from './task.js';

const SUBSCRIBED = [ 'one', 'two' ];
const ALL = [ ...SUBSCRIBED, 'three' ];
const LENGTH = 30;
const LATER = 5;

export async function lite(run) {
  const topic = await run.topic('type=LITE');
  await run.group('push', `lite=${topic}`, RETRY_QUICKLY);
  await playLite(run, topic, false);
}

export async function liteHeir(run) {
  await playLite(run, run.name('topic', 'lite'), true);
}

async function playLite(run, topic, inherited) {
  const ledger = await Ledger.of(run);
  run.step('subscribing to two of three');
  const consumer = await run.litePushConsumer(run.name('push', 'lite'), topic, {
    async consume(message) {
      // The lane is the lite topic that it came with, which must be the one that it was sent with.
      ledger.add('push', `${message.liteTopic || 'none'} ${text(message).split(' ')[1]}`);
      return ConsumeResult.SUCCESS;
    },
  });
  for (const name of SUBSCRIBED) await subscribe(consumer, name);
  const producer = await run.producer();
  const sending = new Task(() => sendRest(producer, topic, ledger));
  const total = SUBSCRIBED.length * LENGTH;
  const progress = () => `${ledger.progress('push')} of ${total}`;
  run.step('sending and receiving until the middle');
  await waitUntil(() => ledger.least('push') > total / 4, progress, 30, sending);
  const harsh = await run.middle('lite-heir') || inherited;
  run.step('sending and receiving the rest');
  await waitUntil(() => ledger.least('push') >= total, progress, 90, sending);
  await sending.end();
  run.step('unsubscribing from one of the two');
  await consumer.unsubscribeLite(SUBSCRIBED[1]);
  for (let number = LENGTH; number < LENGTH + LATER; number++) {
    for (const name of ALL) await send(producer, topic, name, number);
  }
  await waitUntil(() => ledger.least('push') >= total + LATER, () => `${ledger.progress('push')} of ${total + LATER}`, 20);
  await sleep(3_000);
  ledger.expectInOrder('push', 'one', LENGTH + LATER, !harsh);
  ledger.expectInOrder('push', 'two', LENGTH, !harsh);
  require(ledger.numbers('push', 'three').length === 0, 'messages of a lite topic came that was never subscribed to');
}

/** A client that just started may not know its quota yet and refuse by itself; the server may still bury the one before it. */
async function subscribe(consumer, name) {
  const deadline = now() + 10;
  for (;;) {
    try {
      await consumer.subscribeLite(name);
      return;
    } catch (refusal) {
      require(now() < deadline, `the subscription to \`${name}\` was refused for 10 s: ${oneLine(refusal)}`);
      say(`the subscription to \`${name}\` was refused: ${oneLine(refusal)}`);
      await sleep(500);
    }
  }
}

async function send(producer, topic, name, number) {
  await sendSurely(producer, { topic, liteTopic: name, body: Buffer.from(`${name} ${number}`) });
}

/** Goes on after what is noted as sent. */
async function sendRest(producer, topic, ledger) {
  for (let number = 0; number < LENGTH; number++) {
    for (const name of ALL) {
      if (ledger.numbers('sent', name).includes(number)) continue;
      await send(producer, topic, name, number);
      ledger.add('sent', `${name} ${number}`);
      await sleep(10);
    }
  }
}
