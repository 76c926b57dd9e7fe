/** Delayed messages: never early, soon when due, and gone when recalled in time. Times are milliseconds since 1970. */
import { collect, expectOnce, expectSilence, Failed, now, oneLine, require, say, text } from './harness.js';
import { Ledger } from './ledger.js';
import { receiveSurely } from './surely.js';

const EARLY_MS = 50;
const LATE_MS = 10_000;
// After a kill the client needs a moment to connect again before it can be on time.
const RECOVERY_MS = 6_000;
const EACH = 5;

function message(topic, body, due) {
  return { topic, body: Buffer.from(body), deliveryTimestamp: new Date(due) };
}

export async function delay(run) {
  const topic = await run.topic('type=DELAY');
  const group = await run.group();
  const consumer = await run.simpleConsumer(group, topic);
  const producer = await run.producer();
  const ledger = await Ledger.of(run);
  run.step('sending');
  const dues = { past: Date.now() - 60_000, soon: Date.now() + 2_000, later: Date.now() + 5_000 };
  for (const [ lane, due ] of Object.entries(dues)) {
    for (let number = 0; number < EACH; number++) await producer.send(message(topic, `${lane} ${number}`, due));
    // So that an heir knows as well.
    run.note(`due ${lane} ${due}`);
  }
  const sent = Date.now();
  const restarted = await run.middle('delay-heir');
  const ready = restarted ? Date.now() + RECOVERY_MS : sent;
  await receiveOnTime(consumer, ledger, dues, ready);
  await expectRest(run, consumer, ledger, topic, group, !restarted);
}

export async function delayHeir(run) {
  const topic = run.name('topic', 'delay');
  const group = run.name('group', 'delay');
  const ledger = await Ledger.of(run);
  const dues = Object.fromEntries([ 'past', 'soon', 'later' ].map(lane => [ lane, ledger.numbers('due', lane)[0] ]));
  const consumer = await run.simpleConsumer(group, topic);
  await receiveOnTime(consumer, ledger, dues, Date.now() + RECOVERY_MS);
  await expectRest(run, consumer, ledger, topic, group, false);
}

/** Nothing counts as late before `ready`. */
async function receiveOnTime(consumer, ledger, dues, ready) {
  const deadline = now() + 40;
  let worst = 0;
  while (ledger.least('got') < EACH * Object.keys(dues).length) {
    require(now() < deadline, `within 40 s came only ${ledger.firsts('got')}`);
    for (const delivered of await receiveSurely(consumer, 16, 10_000)) {
      const body = text(delivered);
      const at = Date.now();
      const due = dues[body.split(' ')[0]];
      const carried = delivered.deliveryTimestamp?.getTime();
      require(carried === due, `\`${body}\` carries the delivery timestamp ${carried} instead of ${due}`);
      require(at >= due - EARLY_MS, `\`${body}\` came ${due - at} ms early`);
      const late = at - Math.max(due, ready);
      worst = Math.max(worst, late);
      require(late <= LATE_MS, `\`${body}\` came ${late} ms late`);
      ledger.add('got', body);
      await consumer.ack(delivered);
    }
  }
  say(`the latest came ${worst} ms after it was due`);
}

async function expectRest(run, consumer, ledger, topic, group, once) {
  run.step('expecting nothing else');
  await expectSilence(consumer, once ? 3 : 12);
  for (const lane of [ 'past', 'soon', 'later' ]) ledger.expectAll('got', lane, EACH, once);
  await run.expectNoLag(group, topic);
}

export async function delayRecall(run) {
  const topic = await run.topic('type=DELAY');
  const group = await run.group();
  const consumer = await run.simpleConsumer(group, topic);
  const producer = await run.producer();
  run.step('recalling before the time');
  const receipt = await producer.send(message(topic, 'recalled', Date.now() + 6_000));
  require(receipt.recallHandle, 'the receipt of a delayed message has no recall handle');
  const recalled = await producer.recallMessage(topic, receipt.recallHandle);
  require(recalled.messageId === receipt.messageId, `the recall answered \`${recalled.messageId}\` instead of \`${receipt.messageId}\``);
  run.step('expecting that it never comes');
  await expectSilence(consumer, 10);

  run.step('recalling after the delivery');
  const late = await producer.send(message(topic, 'delivered', Date.now() + 1_000));
  expectOnce((await collect(consumer, 1, 10)).map(text), [ 'delivered' ]);
  await expectNoRecall(producer, topic, late);
  await run.expectNoLag(group, topic);
}

async function expectNoRecall(producer, topic, receipt) {
  let recalled;
  try {
    recalled = await producer.recallMessage(topic, receipt.recallHandle);
  } catch (refusal) {
    // This client makes plain errors of the codes of this call.
    require(/code: \d{5}/.test(refusal.message), `the late recall was not answered: ${oneLine(refusal)}`);
    say(`the late recall was refused: ${oneLine(refusal)}`);
    return;
  }
  throw new Failed(`the late recall was answered with message id \`${recalled.messageId}\``);
}
