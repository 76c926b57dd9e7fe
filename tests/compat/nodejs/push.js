/** Push consumers: delivery, retry, dead letters, sharing. */
import { collect, expectOnce, expectSilence, require, say, sendAll, sleep, text } from './harness.js';
import { Inbox } from './inbox.js';

// A push consumer asks for its assignment one second after its start; before that it receives nothing.
const WARM_UP_MS = 4_000;

function numbered(name, count) {
  return Array.from({ length: count }, (_, index) => `${name} ${index}`);
}

export async function pushSuccess(run) {
  const topic = await run.topic();
  const group = await run.group();
  const inbox = new Inbox();
  run.step('starting the push consumer');
  await run.pushConsumer(group, topic, inbox);
  const bodies = numbered('push', 50);
  run.step('sending 50 messages');
  await sendAll(await run.producer(), topic, bodies);
  run.step('waiting for 50 deliveries, then for 10 s of quiet');
  await inbox.waitFor(50, 30);
  await inbox.waitQuiet(10);
  expectOnce(inbox.bodies(), bodies);
  await run.expectNoLag(group, topic);
}

export async function pushRetryDlq(run) {
  const topic = await run.topic();
  const group = await run.group('group', 'max_attempts=3', 'retry=1s,1s');
  const reader = await run.group('reader');
  const inbox = new Inbox(() => false);
  run.step('starting a push consumer that always fails');
  await run.pushConsumer(group, topic, inbox);
  const bodies = numbered('hopeless', 3);
  await sendAll(await run.producer(), topic, bodies);
  run.step('waiting for three deliveries of each message');
  await inbox.waitFor(9, 30);
  await inbox.waitQuiet(5);
  for (const body of bodies) expectAttempts(inbox, body, [ 1, 2, 3 ]);
  run.step('reading the dead letter queue');
  const consumer = await run.simpleConsumer(reader, `%DLQ%${group}`);
  expectOnce((await collect(consumer, 3, 20)).map(text), bodies);
  await expectSilence(consumer, 4);
  await run.expectNoLag(group, topic);
}

export async function pushRetryThenOk(run) {
  const topic = await run.topic();
  const group = await run.group('group', 'max_attempts=3', 'retry=1s,1s');
  const inbox = new Inbox(delivery => delivery.attempt > 1);
  run.step('starting a push consumer that fails once');
  await run.pushConsumer(group, topic, inbox);
  await sendAll(await run.producer(), topic, [ 'second chance' ]);
  run.step('waiting for two deliveries');
  await inbox.waitFor(2, 30);
  await inbox.waitQuiet(5);
  expectAttempts(inbox, 'second chance', [ 1, 2 ]);
  await run.expectNoLag(group, topic);
}

function expectAttempts(inbox, body, expected) {
  const came = inbox.deliveries.filter(delivery => delivery.body === body);
  const gaps = came.slice(1).map((delivery, index) => `${(delivery.at - came[index].at).toFixed(1)} s`);
  say(`\`${body}\` came ${came.length} times, apart by ${gaps.join(', ')}`);
  const attempts = came.map(delivery => delivery.attempt).join(',');
  require(attempts === expected.join(','), `\`${body}\` came with attempts ${attempts} instead of ${expected}`);
}

export async function groupShares(run) {
  const topic = await run.topic();
  const group = await run.group();
  const inboxes = [ new Inbox(), new Inbox() ];
  run.step('starting two push consumers of one group');
  for (const inbox of inboxes) await run.pushConsumer(group, topic, inbox);
  await sleep(WARM_UP_MS);
  const bodies = numbered('shared', 100);
  run.step('sending 100 messages');
  await sendAll(await run.producer(), topic, bodies);
  run.step('waiting for all of them');
  await Promise.all(inboxes.map(inbox => inbox.waitQuiet(6)));
  const shares = inboxes.map(inbox => inbox.bodies().length);
  say(`the consumers got ${shares.join(' and ')} messages`);
  expectOnce(inboxes.flatMap(inbox => inbox.bodies()), bodies);
  require(shares.every(share => share > 0), `one of the consumers got nothing: ${shares}`);
  await run.expectNoLag(group, topic);
}

export async function groupsEach(run) {
  const topic = await run.topic();
  const groups = [ await run.group('one'), await run.group('two') ];
  const inboxes = [ new Inbox(), new Inbox() ];
  run.step('starting one push consumer in each of two groups');
  for (const [ index, group ] of groups.entries()) await run.pushConsumer(group, topic, inboxes[index]);
  const bodies = numbered('for each', 20);
  await sendAll(await run.producer(), topic, bodies);
  run.step('waiting for 20 deliveries in both groups');
  for (const [ index, group ] of groups.entries()) {
    await inboxes[index].waitFor(20, 30);
    await inboxes[index].waitQuiet(4);
    expectOnce(inboxes[index].bodies(), bodies);
    await run.expectNoLag(group, topic);
  }
}
