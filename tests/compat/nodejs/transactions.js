/** Transactional messages: seen when committed, once; never when rolled back; and the producer is asked when it forgot. */
import { collect, expectOnce, expectSilence, Failed, now, require, say, text } from './harness.js';
import { ackSurely, receiveSurely } from './surely.js';
import { waitUntil } from './task.js';

// The server first asks 6 s after the send.
const ASKED_S = 12;
// After a kill the client first notices, then opens its stream again.
const RECOVERY_S = 20;
const BODIES = [ 'open 0', 'open 1', 'open 2' ];
// What a checker may say; the client doesn't export the names.
const UNKNOWN = 0;
const COMMIT = 1;

/** Remembers what it was asked and always says the same. */
class Checker {
  #answer;
  asked = [];

  constructor(answer = COMMIT) {
    this.#answer = answer;
  }

  async check(message) {
    say(`the checker is asked about \`${text(message)}\``);
    this.asked.push(message);
    return this.#answer;
  }
}

function half(topic, body) {
  return { topic, body: Buffer.from(body), tag: 'half', keys: [ `key of ${body}` ], properties: new Map([[ 'what', 'a half message' ]]) };
}

function expectAsSent(got, topic) {
  const out = half(topic, text(got));
  require(got.topic === topic, `the topic was \`${topic}\` and came as \`${got.topic}\``);
  require(got.tag === out.tag, `the tag came as \`${got.tag}\``);
  require(got.keys.join() === out.keys.join(), `the keys of \`${text(got)}\` came as ${got.keys}`);
  const properties = JSON.stringify([ ...got.properties ]);
  require(properties === JSON.stringify([ ...out.properties ]), `the properties came as ${properties}`);
  require(!got.corrupted, 'the client found the body\'s digest wrong');
}

async function sendHalf(producer, topic, body) {
  const transaction = producer.beginTransaction();
  const receipt = await producer.send(half(topic, body), transaction);
  require(receipt.transactionId, `the receipt of \`${body}\` has no transaction id`);
  return { transaction, messageId: receipt.messageId };
}

export async function txnCommit(run) {
  const topic = await run.topic('type=TRANSACTION');
  const group = await run.group();
  const consumer = await run.simpleConsumer(group, topic);
  // If the checker is asked before the commit, it must not be what commits.
  const { transaction, messageId } = await sendHalf(await run.producer({ topic, checker: new Checker(UNKNOWN) }), topic, 'committed');
  run.step('expecting nothing before the commit');
  await expectSilence(consumer, 2);
  run.step('committing');
  await transaction.commit();
  const [ got ] = await collect(consumer, 1, 10);
  require(text(got) === 'committed', `\`${text(got)}\` came`);
  expectAsSent(got, topic);
  require(got.messageId === messageId, `it was sent as \`${messageId}\` and came as \`${got.messageId}\``);
  run.step('expecting nothing else, also when a check would be due');
  await expectSilence(consumer, 9);
  await run.expectNoLag(group, topic);
}

export async function txnRollback(run) {
  const topic = await run.topic('type=TRANSACTION');
  const group = await run.group();
  const consumer = await run.simpleConsumer(group, topic);
  const checker = new Checker();
  const { transaction } = await sendHalf(await run.producer({ topic, checker }), topic, 'rolled back');
  run.step('rolling back');
  await transaction.rollback();
  run.step('expecting nothing, also when a check would be due');
  await expectSilence(consumer, 12);
  require(checker.asked.length === 0, 'the checker was asked about a transaction that was rolled back');
  await run.expectNoLag(group, topic);
}

// ---- forgotten transactions

export async function txnCheck(run) {
  const topic = await run.topic('type=TRANSACTION');
  const group = await run.group();
  const checker = new Checker();
  const producer = await run.producer({ topic, checker });
  const consumer = await run.simpleConsumer(group, topic);
  for (const body of BODIES) await sendHalf(producer, topic, body);
  const restarted = await run.middle('txn-check-heir');
  await expectAsked(run, checker, topic, restarted ? ASKED_S + RECOVERY_S : ASKED_S);
  await expectCommitted(run, consumer, group, topic);
}

export async function txnCheckHeir(run) {
  await inherit(run, 'txn-check');
}

export async function txnCheckOther(run) {
  const topic = await run.topic('type=TRANSACTION');
  await run.group();
  const producer = await run.producer({ topic, checker: new Checker(UNKNOWN) });
  for (const body of BODIES) await sendHalf(producer, topic, body);
  run.step('asking to be killed');
  await run.ask('kill-me txn-check-other-heir');
  throw new Failed('the runner answered `kill-me` instead of killing this program');
}

export async function txnCheckOtherHeir(run) {
  await inherit(run, 'txn-check-other');
}

/** The sender is gone. Its topic has another producer, which is asked. */
async function inherit(run, scenario) {
  const topic = run.name('topic', scenario);
  const group = run.name('group', scenario);
  const checker = new Checker();
  await run.producer({ topic, checker });
  const consumer = await run.simpleConsumer(group, topic);
  await expectAsked(run, checker, topic, ASKED_S);
  await expectCommitted(run, consumer, group, topic);
}

async function expectAsked(run, checker, topic, seconds) {
  run.step('waiting for the checker to be asked');
  const began = now();
  const about = () => new Set(checker.asked.map(text));
  await waitUntil(() => BODIES.every(body => about().has(body)), () => `asked about ${[ ...about() ]}`, seconds);
  say(`asked after ${(now() - began).toFixed(1)} s`);
  for (const one of checker.asked) expectAsSent(one, topic);
}

async function expectCommitted(run, consumer, group, topic) {
  run.step('receiving what the checker committed');
  const got = [];
  const deadline = now() + 15;
  while (got.length < BODIES.length) {
    require(now() < deadline, `within 15 s came only ${got.map(text)}`);
    for (const message of await receiveSurely(consumer, 16, 30_000)) {
      got.push(message);
      await ackSurely(consumer, message);
    }
  }
  expectOnce(got.map(text), BODIES);
  for (const one of got) expectAsSent(one, topic);
  await expectSilence(consumer, 4);
  await run.expectNoLag(group, topic);
}
