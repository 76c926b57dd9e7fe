/** Dead letters: they wait, and come again when an operator redrives them. */
import { RETRY_QUICKLY } from './fifo.js';
import { collect, expectOnce, expectSilence, require, say, sendAll, text } from './harness.js';
import { Inbox } from './inbox.js';

export async function nackDlqRedrive(run) {
  const topic = await run.topic();
  const group = await run.group('group', 'max_attempts=2', RETRY_QUICKLY);
  const reader = await run.group('reader');
  let healed = false;
  const inbox = new Inbox(() => healed);
  run.step('starting a push consumer that fails');
  await run.pushConsumer(group, topic, inbox);
  await sendAll(await run.producer(), topic, [ 'sick' ]);
  await inbox.waitFor(2, 30);
  await inbox.waitQuiet(4);
  const attempts = inbox.deliveries.map(delivery => delivery.attempt).join(',');
  require(attempts === '1,2', `the message came with attempts ${attempts} instead of 1,2`);
  run.step('reading the dead letter queue');
  const letters = await run.simpleConsumer(reader, `%DLQ%${group}`);
  expectOnce((await collect(letters, 1, 15)).map(text), [ 'sick' ]);
  run.step('redriving');
  healed = true;
  await run.ask(`redrive ${group}`);
  await inbox.waitFor(3, 20);
  await inbox.waitQuiet(4);
  expectOnce(inbox.bodies().slice(2), [ 'sick' ]);
  say(`after the redrive it came with attempt ${inbox.deliveries[2].attempt}`);
  await expectSilence(letters, 3);
  await run.expectNoLag(group, topic);
}
