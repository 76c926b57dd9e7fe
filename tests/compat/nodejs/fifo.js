/** FIFO: each message group in order, whatever fails. */
import { collect, expectOnce, expectSilence, now, require, say, sleep, text } from './harness.js';
import { Inbox } from './inbox.js';
import { Ledger } from './ledger.js';
import { ackSurely, receiveSurely, sendSurely } from './surely.js';
import { Task, waitUntil } from './task.js';

// Keeps the waits of the scenarios short.
export const RETRY_QUICKLY = 'retry=1s,1s';
const LANES = Array.from({ length: 5 }, (_, number) => `lane-${number}`);
const LENGTH = 40;
const SHORT_MS = 10_000;
const WHO = [ 'push', 'simple' ];
// Otherwise the message groups of one batch wait for each other in the client.
const SIDE_BY_SIDE = { enableFifoConsumeAccelerator: true };

const laneOf = body => body.split(' ')[0];

/** The lane is the message group. */
async function sendInOrder(producer, topic, bodies) {
  for (const body of bodies) await sendSurely(producer, { topic, messageGroup: laneOf(body), body: Buffer.from(body) });
}

function same(left, right) {
  return left.length === right.length && left.every((one, index) => one === right[index]);
}

// ---- fifo-order

export async function fifoOrder(run) {
  const topic = await run.topic('type=FIFO');
  for (const who of WHO) await run.group(who, RETRY_QUICKLY);
  await playOrder(run, topic, false);
}

export async function fifoOrderHeir(run) {
  await playOrder(run, run.name('topic', 'fifo-order'), true);
}

async function playOrder(run, topic, inherited) {
  const ledger = await Ledger.of(run);
  const inbox = new Inbox(delivery => {
    ledger.add('push', delivery.body);
    return true;
  });
  await run.pushConsumer(run.name('push', 'fifo-order'), topic, inbox, SIDE_BY_SIDE);
  const consumer = await run.simpleConsumer(run.name('simple', 'fifo-order'), topic);
  const producer = await run.producer();
  const receiving = new Task(task => receiveAll(consumer, ledger, task));
  const sending = new Task(() => sendRest(producer, topic, ledger));
  const total = LANES.length * LENGTH;
  const progress = () => `${ledger.progress(...WHO)} of ${total}`;
  run.step('sending and receiving until the middle');
  await waitUntil(() => ledger.least(...WHO) > total / 4, progress, 40, receiving, sending);
  const harsh = await run.middle('fifo-order-heir') || inherited;
  run.step('sending and receiving the rest');
  await waitUntil(() => ledger.least(...WHO) >= total, progress, 90, receiving, sending);
  await sending.end();
  await sleep(2_000);
  await receiving.stop();
  for (const who of WHO) {
    for (const lane of LANES) ledger.expectInOrder(who, lane, LENGTH, !harsh);
    await run.expectNoLag(run.name(who, 'fifo-order'), topic);
  }
}

/** Goes on after what is noted as sent. A send that was acknowledged but not noted is repeated. */
async function sendRest(producer, topic, ledger) {
  for (let number = 0; number < LENGTH; number++) {
    for (const lane of LANES) {
      if (ledger.numbers('sent', lane).includes(number)) continue;
      await sendInOrder(producer, topic, [ `${lane} ${number}` ]);
      ledger.add('sent', `${lane} ${number}`);
    }
  }
}

async function receiveAll(consumer, ledger, task) {
  while (!task.over) {
    for (const message of await receiveSurely(consumer, 16, SHORT_MS)) {
      ledger.add('simple', text(message));
      // If it is refused, the rest of the batch may have been given to others; in order it comes again.
      if (!await ackSurely(consumer, message)) break;
    }
  }
}

// ---- fifo-retry

const six = name => Array.from({ length: 6 }, (_, index) => `${name} ${index + 1}`);
const SICK = six('sick');
const WELL = six('well');

/** Every delivery in order, and whether it succeeded. */
class Trials {
  #fails;
  #came = [];
  done = [];

  /** `fails` is asked with a body and how often it came before. */
  constructor(fails) {
    this.#fails = fails;
  }

  /** Takes a delivery down and tells whether it succeeds. */
  succeeds(body) {
    const earlier = this.#came.filter(came => came === body).length;
    this.#came.push(body);
    const succeeds = !this.#fails(body, earlier);
    if (succeeds) this.done.push(body);
    return succeeds;
  }

  cameIn(lane) {
    return this.#came.filter(body => laneOf(body) === lane);
  }

  async consumeByPush(run, group, topic, wanted) {
    await run.pushConsumer(group, topic, new Inbox(delivery => this.succeeds(delivery.body)), SIDE_BY_SIDE);
    await waitUntil(() => this.done.length >= wanted, () => `of ${wanted} succeeded ${this.done}`, 30);
  }

  /** One at a time: within a batch the order would be the application's own affair. */
  async consumeSimply(consumer, wanted) {
    const deadline = now() + 40;
    while (this.done.length < wanted) {
      require(now() < deadline, `of ${wanted} succeeded ${this.done} within 40 s`);
      for (const message of await consumer.receive(1, SHORT_MS)) {
        if (this.succeeds(text(message))) await consumer.ack(message);
        else await consumer.changeInvisibleDuration(message, 2_000);
      }
    }
  }
}

function expectCame(who, trials, lane, expected) {
  require(same(trials.cameIn(lane), expected), `${who} got ${trials.cameIn(lane)} instead of ${expected}`);
}

export async function fifoRetry(run) {
  const topic = await run.topic('type=FIFO');
  // The client reads the seconds of a delay as milliseconds.
  await run.group('push', 'retry=1000s,1000s', 'max_attempts=5');
  await run.group('simple', RETRY_QUICKLY, 'max_attempts=5');
  run.step('sending two message groups');
  await sendInOrder(await run.producer(), topic, SICK.flatMap((sick, index) => [ sick, WELL[index] ]));
  const thirdFailsTwice = (body, earlier) => body === SICK[2] && earlier < 2;
  run.step('consuming with a push consumer whose listener fails twice');
  const push = new Trials(thirdFailsTwice);
  await push.consumeByPush(run, run.name('push'), topic, 12);
  expectHeldBack('push', push);
  run.step('consuming with a simple consumer that lets the message come again twice');
  const simple = new Trials(thirdFailsTwice);
  await simple.consumeSimply(await run.simpleConsumer(run.name('simple'), topic), 12);
  expectHeldBack('simple', simple);
  for (const who of WHO) await run.expectNoLag(run.name(who), topic);
}

function expectHeldBack(who, trials) {
  expectCame(who, trials, 'sick', [ ...SICK.slice(0, 2), SICK[2], SICK[2], ...SICK.slice(2) ]);
  expectCame(who, trials, 'well', WELL);
  say(`${who} finished in the order ${trials.done}`);
  require(trials.done.indexOf(WELL[5]) < trials.done.indexOf(SICK[2]), `${who}: the other message group was held up: ${trials.done}`);
}

// ---- fifo-dead

const LANE = [ 'lane 1', 'lane 2', 'lane 3', 'lane 4' ];

export async function fifoDead(run) {
  const topic = await run.topic('type=FIFO');
  for (const who of WHO) await run.group(who, RETRY_QUICKLY, 'max_attempts=2');
  run.step('sending a message group');
  await sendInOrder(await run.producer(), topic, LANE);
  const [ first, second, third, fourth ] = LANE;
  const trials = { push: new Trials(body => body === second), simple: new Trials(body => body === second) };
  run.step('consuming with a push consumer that fails on the second message');
  await trials.push.consumeByPush(run, run.name('push'), topic, 3);
  run.step('consuming with a simple consumer that fails on the second message');
  await trials.simple.consumeSimply(await run.simpleConsumer(run.name('simple'), topic), 3);
  for (const who of WHO) {
    expectCame(who, trials[who], 'lane', [ first, second, second, third, fourth ]);
    run.step(`reading the dead letter queue of the ${who} consumer`);
    const reader = await run.simpleConsumer(await run.group(`${who}-reader`), `%DLQ%${run.name(who)}`);
    expectOnce((await collect(reader, 1, 15)).map(text), [ second ]);
    await expectSilence(reader, 3);
    await run.expectNoLag(run.name(who), topic);
  }
}
