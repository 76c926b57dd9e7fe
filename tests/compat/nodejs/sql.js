/** SQL92 expressions: exactly the matching messages, and nothing left over. */
import { FilterExpression } from 'rocketmq-client-nodejs';
import { collect, expectOnce, expectSilence, now, require, text } from './harness.js';
import { Ledger } from './ledger.js';
import { expectRefused } from './limits.js';
import { ackSurely, receiveSurely } from './surely.js';

const ILLEGAL_FILTER_EXPRESSION = 40010;
// The type of an expression; the client doesn't export the names.
const SQL = 2;
const COLOURS = [ 'red', 'green', 'blue' ];

// A missing note is what IS NULL asks for.
const ROWS = Array.from({ length: 30 }, (_, a) => ({ a, color: COLOURS[a % 3], note: a % 2 === 0 ? `note ${a}` : undefined }));

// A consumer group with an expression, and the same said in JavaScript.
const CASES = [
  {
    name: 'and-in',
    expression: 'a > 5 AND color IN (\'red\', \'blue\') AND note IS NOT NULL',
    matches: ({ a, color, note }) => a > 5 && color !== 'green' && note !== undefined,
  },
  { name: 'between', expression: 'a BETWEEN 10 AND 19', matches: ({ a }) => a >= 10 && a <= 19 },
  { name: 'equal', expression: 'color = \'green\'', matches: ({ color }) => color === 'green' },
  {
    name: 'or-null',
    expression: '(note IS NULL AND a <= 3) OR (a >= 25 AND color <> \'red\')',
    matches: ({ a, color, note }) => note === undefined && a <= 3 || a >= 25 && color !== 'red',
  },
];

const expectedOf = one => ROWS.filter(one.matches).map(({ a }) => `row ${a}`);

export async function sqlFilter(run) {
  const topic = await run.topic();
  for (const one of CASES) await run.group(one.name);
  run.step('sending rows');
  const producer = await run.producer();
  for (const { a, color, note } of ROWS) {
    const properties = new Map([[ 'a', `${a}` ], [ 'color', color ], ...note ? [[ 'note', note ]] : [] ]);
    await producer.send({ topic, body: Buffer.from(`row ${a}`), properties });
  }
  const ledger = await Ledger.of(run);
  const consumers = await consumersOf(run, topic);
  run.step('receiving half of what matches');
  for (const one of CASES) {
    const half = Math.floor(expectedOf(one).length / 2);
    for (const message of await collect(consumers.get(one), half, 20)) ledger.add(one.name, text(message));
  }
  const restarted = await run.middle('sql-filter-heir');
  await receiveRest(run, topic, consumers, ledger, !restarted);
  run.step('subscribing with an expression that is none');
  const group = await run.group('illegal');
  await expectRefused('illegal expression', [ ILLEGAL_FILTER_EXPRESSION ], async () => {
    const consumer = await run.simpleConsumer(group, topic, new FilterExpression('a > AND color', SQL));
    await consumer.receive(1, 10_000);
  });
}

export async function sqlFilterHeir(run) {
  const topic = run.name('topic', 'sql-filter');
  await receiveRest(run, topic, await consumersOf(run, topic), await Ledger.of(run), false);
}

async function consumersOf(run, topic) {
  const consumers = new Map();
  for (const one of CASES) {
    consumers.set(one, await run.simpleConsumer(run.name(one.name, 'sql-filter'), topic, new FilterExpression(one.expression, SQL)));
  }
  return consumers;
}

async function receiveRest(run, topic, consumers, ledger, once) {
  run.step('receiving the rest');
  for (const one of CASES) {
    await receiveMatching(one, consumers.get(one), ledger);
    const came = once ? ledger.numbers(one.name, 'row').map(number => `row ${number}`) : ledger.firsts(one.name);
    expectOnce(came, expectedOf(one));
  }
  run.step('expecting nothing else');
  for (const consumer of consumers.values()) await expectSilence(consumer, 2);
  for (const one of CASES) await run.expectNoLag(run.name(one.name, 'sql-filter'), topic);
}

async function receiveMatching(one, consumer, ledger) {
  const wanted = expectedOf(one).length;
  const deadline = now() + 20;
  while (ledger.least(one.name) < wanted) {
    require(now() < deadline, `${ledger.least(one.name)} of ${wanted} rows for \`${one.expression}\` within 20 s`);
    for (const message of await receiveSurely(consumer, 16, 30_000)) {
      ledger.add(one.name, text(message));
      await ackSurely(consumer, message);
    }
  }
}
