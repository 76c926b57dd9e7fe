/** What makes a message, a topic or a group the same one: message ids, namespaces. And what belongs to a message: its trace context. */
import { RETRY_QUICKLY } from './fifo.js';
import { collect, expectOnce, expectSilence, require, sendAll, text, Unsupported } from './harness.js';
import { LossyRoad } from './road.js';

/** Loses the answer of the first send on its way: the client then sends the same message with the same id again, by itself. */
export async function dedup(run) {
  const road = await LossyRoad.to(run.endpoint);
  for (const kind of [ 'NORMAL', 'FIFO' ]) {
    const topic = await run.topicNamed(`topic-${kind}`, `type=${kind}`);
    const group = await run.group(`group-${kind}`, RETRY_QUICKLY);
    const producer = await run.producer({ endpoints: road.endpoint, topic });
    run.step(`sending with a lost answer to a topic of type ${kind}`);
    const body = 'once '.repeat(500);
    road.loseNextAnswer();
    const receipt = await producer.send({ topic, body: Buffer.from(body), messageGroup: kind === 'FIFO' ? 'lane' : undefined });
    road.expectLost(body.length);
    run.step('expecting it once');
    const consumer = await run.simpleConsumer(group, topic);
    const [ got ] = await collect(consumer, 1, 15);
    require(text(got) === body, 'the body came differently');
    require(got.messageId === receipt.messageId, `the receipt says \`${receipt.messageId}\`, and it came as \`${got.messageId}\``);
    await expectSilence(consumer, 4);
    await run.expectNoLag(group, topic);
  }
}

export async function traceContext() {
  throw new Unsupported('the client neither sets a message\'s trace context nor shows it');
}

export async function namespace(run) {
  const spaces = [ `left-${run.id}`, `right-${run.id}` ];
  const topic = run.name('topic');
  const group = run.name('group');
  for (const space of spaces) {
    await run.ask(`topic ${topic} type=NORMAL namespace=${space}`);
    await run.ask(`group ${group} start=earliest namespace=${space}`);
  }
  const numbered = space => Array.from({ length: 10 }, (_, number) => `${space} ${number}`);
  run.step('sending to the same topic name in two namespaces');
  for (const space of spaces) await sendAll(await run.producer({ namespace: space }), topic, numbered(space));
  run.step('receiving with the same group name in two namespaces');
  for (const space of spaces) {
    const consumer = await run.simpleConsumer(group, topic, '*', { namespace: space });
    expectOnce((await collect(consumer, 10, 15)).map(text), numbered(space));
    await expectSilence(consumer, 3);
  }
  for (const space of spaces) await run.expectNoLag(group, topic, space);
}
