/** Tag expressions: exactly the matching messages, and nothing left over. */
import { collect, expectOnce, expectSilence, sendAll, text } from './harness.js';

export async function tagFilter(run) {
  const topic = await run.topic();
  const sent = {};
  for (const tag of [ 'A', 'B', 'C', 'AB' ]) sent[tag] = Array.from({ length: 10 }, (_, index) => `${tag} ${index}`);
  const cases = [
    { group: await run.group('just-a'), expression: 'A', expected: sent.A },
    { group: await run.group('a-or-b'), expression: 'A || B', expected: [ ...sent.A, ...sent.B ] },
    { group: await run.group('all'), expression: '*', expected: Object.values(sent).flat() },
  ];
  run.step('sending 40 messages with four tags');
  const producer = await run.producer();
  for (const [ tag, bodies ] of Object.entries(sent)) await sendAll(producer, topic, bodies, tag);

  run.step('receiving with three expressions');
  await Promise.all(cases.map(async ({ group, expression, expected }) => {
    const consumer = await run.simpleConsumer(group, topic, expression);
    expectOnce((await collect(consumer, expected.length, 30)).map(text), expected);
    await expectSilence(consumer, 4);
  }));
  run.step('expecting no lag');
  for (const { group } of cases) await run.expectNoLag(group, topic);
}
