/** Priority: of what waits, the highest comes first. */
import { expectSilence, now, require, text } from './harness.js';
import { Ledger } from './ledger.js';
import { ackSurely, receiveSurely } from './surely.js';

// This client takes a priority of 0 for none and then sends a message of type NORMAL, so the lowest is 1.
const LEVELS = [ 1, 4, 9 ];
const EACH = 10;
const TOTAL = LEVELS.length * EACH;

export async function priority(run) {
  const topic = await run.topic('type=PRIORITY');
  const group = await run.group();
  const producer = await run.producer();
  run.step('sending all priorities mixed, before there is a consumer');
  for (let number = 0; number < EACH; number++) {
    for (const level of LEVELS) await producer.send({ topic, priority: level, body: Buffer.from(`p${level} ${number}`) });
  }
  const ledger = await Ledger.of(run);
  const consumer = await run.simpleConsumer(group, topic);
  run.step('receiving half, one at a time');
  await receiveSingly(consumer, ledger, TOTAL / 2);
  const restarted = await run.middle('priority-heir');
  await receiveRest(run, consumer, topic, ledger, !restarted);
}

export async function priorityHeir(run) {
  const topic = run.name('topic', 'priority');
  const consumer = await run.simpleConsumer(run.name('group', 'priority'), topic);
  await receiveRest(run, consumer, topic, await Ledger.of(run), false);
}

async function receiveSingly(consumer, ledger, wanted) {
  const deadline = now() + 40;
  while (ledger.least('got') < wanted) {
    require(now() < deadline, `of ${wanted} came within 40 s only ${ledger.firsts('got')}`);
    for (const message of await receiveSurely(consumer, 1, 10_000)) {
      ledger.add('got', text(message));
      await ackSurely(consumer, message);
    }
  }
}

async function receiveRest(run, consumer, topic, ledger, once) {
  run.step('receiving the rest, one at a time');
  await receiveSingly(consumer, ledger, TOTAL);
  const came = ledger.firsts('got').map(body => body.split(' ')[0]).join(' ');
  const expected = [ 9, 4, 1 ].flatMap(level => Array(EACH).fill(`p${level}`)).join(' ');
  require(came === expected, `the priorities came in the order ${came}`);
  run.step('expecting nothing else');
  await expectSilence(consumer, once ? 3 : 12);
  for (const level of LEVELS) ledger.expectAll('got', `p${level}`, EACH, once);
  await run.expectNoLag(run.name('group', 'priority'), topic);
}
