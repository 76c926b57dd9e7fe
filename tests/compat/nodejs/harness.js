/**
 * What every scenario uses: the line protocol to the runner, the verdicts, and clients with short waits.
 *
 * A scenario is an async function of a `Run`. Returning means it held; `Failed` and `Unsupported` say otherwise. Lines that start with
 * `@gantry ` are for the runner; everything else a scenario prints is its log.
 */
import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { format } from 'node:util';

// The runner gives a scenario 150 s; ending a little earlier lets the program say where it got stuck.
const PATIENCE_MS = 140_000;
// How long one long poll waits when nothing is there. Short, so that loops can look at the clock.
const AWAIT_MS = 3_000;
// Clients are shut down politely, but a verdict does not wait longer than this for them.
const GOODBYE_MS = 4_000;

/** The scenario did not hold. */
export class Failed extends Error {}

/** This client cannot play the scenario. */
export class Unsupported extends Error {}

/** A line of the program's own log. */
export function say(text) {
  process.stdout.write(`${text.replaceAll('\n', ' ')}\n`);
}

export function require(condition, reason) {
  if (!condition) throw new Failed(reason);
}

export { sleep };

/** Seconds on a clock that only goes forward. */
export function now() {
  return performance.now() / 1000;
}

/** One play of one scenario: its names, its runner, and the clients it opened. */
export class Run {
  #open = [];
  #lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

  constructor({ scenario, endpoint, tls, id, logFile }) {
    this.scenario = scenario;
    this.endpoint = endpoint;
    this.tls = tls;
    this.id = id;
    this.logFile = logFile;
    this.doing = 'starting';
  }

  /** Names what happens now, for the log and for the verdict if it never ends. */
  step(text) {
    this.doing = text;
    say(`step: ${text}`);
  }

  /** Asks the runner and returns the rest of its `done` line as words. */
  async ask(text) {
    say(`@gantry ask ${text}`);
    const { value: answer, done } = await this.#lines.next();
    require(!done, `the runner closed standard input instead of answering \`ask ${text}\``);
    const [ verdict, ...words ] = answer.trim().split(/\s+/);
    require(verdict === 'done', `\`ask ${text}\` was answered \`${answer.trim()}\``);
    return words;
  }

  name(suffix, scenario = this.scenario) {
    return `${scenario}-${this.id}-${suffix}`;
  }

  async topic(...options) {
    return await this.topicNamed('topic', ...options);
  }

  async topicNamed(suffix, ...options) {
    const name = this.name(suffix);
    await this.ask([ 'topic', name, ...options ].join(' '));
    return name;
  }

  async group(suffix = 'group', ...options) {
    const name = this.name(suffix);
    await this.ask([ 'group', name, ...options, 'start=earliest' ].join(' '));
    return name;
  }

  /** The runner keeps the text for the heirs of this program. */
  note(text) {
    say(`@gantry note ${text}`);
  }

  async notes() {
    return (await this.ask('notes')).join(' ').split(';').filter(note => note);
  }

  /** The middle of the scenario: the runner may kill the server or this program. Tells whether the server was restarted. */
  async middle(heir) {
    this.step('the middle');
    const answer = (await this.ask(`middle ${heir}`)).join(' ');
    require(answer === 'calm' || answer === 'restarted', `\`ask middle\` was answered \`${answer}\``);
    return answer === 'restarted';
  }

  /** Acks travel apart from the deliveries a scenario sees, so the lag may take a moment to reach zero. */
  async expectNoLag(group, topic, namespace = '', seconds = 10) {
    const deadline = now() + seconds;
    for (;;) {
      const lag = (await this.ask(`lag ${group} ${topic}${namespace && ` namespace=${namespace}`}`)).map(Number);
      require(lag.length === 3, `the runner answered \`ask lag\` with ${lag.length} numbers instead of 3`);
      if (lag.every(count => count === 0)) return;
      require(now() < deadline, `lag of group \`${group}\` is ready=${lag[0]} in_flight=${lag[1]} waiting=${lag[2]} instead of 0`);
      await sleep(500);
    }
  }

  #options() {
    return { endpoints: this.endpoint, namespace: '', sslEnabled: this.tls, logger: this.#logger() };
  }

  /** The client's own log goes to a file: its default would be one under the home directory. */
  #logger() {
    const at = level => (...args) => appendFileSync(this.logFile, `${new Date().toISOString()} ${level} ${format(...args)}\n`);
    // Without `debug` the client throws when a listener fails on a FIFO topic, and goes on with the next message.
    return { debug: at('DEBUG'), info: at('INFO'), warn: at('WARN'), error: at('ERROR') };
  }

  async #started(client) {
    this.#open.push(client);
    await client.startup();
    return client;
  }

  /** `more` are further options of the client, such as `namespace` or `checker`. */
  async producer(more = {}) {
    const { Producer } = await import('rocketmq-client-nodejs');
    return await this.#started(new Producer({ ...this.#options(), ...more }));
  }

  async simpleConsumer(group, topic, expression = '*', more = {}) {
    const { SimpleConsumer } = await import('rocketmq-client-nodejs');
    const subscriptions = new Map([[ topic, expression ]]);
    const options = { ...this.#options(), consumerGroup: group, subscriptions, awaitDuration: AWAIT_MS, ...more };
    return await this.#started(new SimpleConsumer(options));
  }

  async pushConsumer(group, topic, messageListener, more = {}) {
    const { PushConsumer } = await import('rocketmq-client-nodejs');
    const subscriptions = new Map([[ topic, '*' ]]);
    return await this.#started(new PushConsumer({ ...this.#options(), consumerGroup: group, subscriptions, messageListener, ...more }));
  }

  async litePushConsumer(group, topic, listener) {
    const { LitePushConsumerBuilder } = await import('rocketmq-client-nodejs');
    const builder = new LitePushConsumerBuilder().setClientConfiguration(this.#options()).setConsumerGroup(group);
    const consumer = await builder.bindTopic(topic).setMessageListener(listener).build();
    this.#open.push({ shutdown: () => consumer.close() });
    return consumer;
  }

  /** Shuts the clients down, newest first, without waiting too long: a push consumer first waits for its long polls. */
  async goodbye() {
    let finished = false;
    const shutDown = async () => {
      for (const client of this.#open.reverse()) {
        try {
          await client.shutdown();
        } catch (error) {
          say(`shutdown of a client failed: ${oneLine(error)}`);
        }
      }
      finished = true;
    };
    await Promise.race([ shutDown(), sleep(GOODBYE_MS) ]);
    if (!finished) say(`note: the clients did not shut down within ${GOODBYE_MS / 1000} s`);
  }
}

/** Sends one by one and returns the message ids by body. */
export async function sendAll(producer, topic, bodies, tag) {
  const ids = new Map();
  for (const body of bodies) {
    const receipt = await producer.send({ topic, tag, body: Buffer.from(body) });
    require(receipt.messageId, `the receipt of \`${body}\` has no message id`);
    ids.set(body, receipt.messageId);
  }
  return ids;
}

export function text(delivered) {
  return delivered.body.toString('utf8');
}

/** Receives until `wanted` messages have come; fails when the time is over. */
export async function collect(consumer, wanted, seconds, { invisibleMs = 30_000, batch = 16, ack = true } = {}) {
  const got = [];
  const deadline = now() + seconds;
  while (got.length < wanted) {
    require(now() < deadline, `received ${got.length} of ${wanted} messages within ${seconds} s`);
    const batchGot = await consumer.receive(Math.min(batch, wanted - got.length), invisibleMs);
    for (const delivered of batchGot) {
      if (ack) await consumer.ack(delivered);
    }
    got.push(...batchGot);
  }
  return got;
}

/** Receives for so long; any delivery is a failure. */
export async function expectSilence(consumer, seconds) {
  const deadline = now() + seconds;
  while (now() < deadline) {
    const [ delivered ] = await consumer.receive(16, 30_000);
    if (delivered) {
      const what = text(delivered).slice(0, 60);
      throw new Failed(`\`${what}\` came with attempt ${delivered.deliveryAttempt}, and nothing should have come`);
    }
  }
}

/** Exactly the expected bodies, each once. */
export function expectOnce(bodies, expected) {
  const twice = bodies.filter((body, index) => bodies.indexOf(body) !== index);
  const missing = expected.filter(body => !bodies.includes(body));
  const foreign = bodies.filter(body => !expected.includes(body));
  require(twice.length === 0, `delivered more than once: ${twice.slice(0, 5)}`);
  require(missing.length === 0, `${missing.length} of ${expected.length} not delivered: ${missing.slice(0, 5)}`);
  require(foreign.length === 0, `delivered but not expected: ${foreign.slice(0, 5)}`);
}

export function oneLine(error) {
  const written = String(error?.message ?? error).split(/\s+/).join(' ');
  return error instanceof Failed ? written : `${error?.constructor?.name ?? 'Error'}: ${written}`;
}

/** Ends the process at once, when the line is written: the client's timers would keep it alive. */
function leave(line, code) {
  process.stdout.write(`@gantry ${line}\n`, () => process.exit(code));
}

/** Plays the scenario of `run` and leaves the process with its verdict. */
export async function play(run, scenarios, prepare) {
  setTimeout(() => leave(`fail no end after ${PATIENCE_MS / 1000} s while: ${run.doing}`, 1), PATIENCE_MS);
  // What the client leaves behind must not decide about the server, but it must be seen.
  process.on('unhandledRejection', error => say(`note: the client left a rejection unhandled: ${oneLine(error)}`));
  process.on('uncaughtException', error => say(`note: the client threw where nobody can catch it: ${oneLine(error)}`));
  let verdict = [ 'pass', 0 ];
  try {
    await prepare();
    const scenario = (await scenarios())[run.scenario];
    require(scenario, `this program has no scenario \`${run.scenario}\``);
    await scenario(run);
  } catch (error) {
    console.error(error);
    verdict = error instanceof Unsupported ?
      [ `unsupported ${error.message}`, 0 ] : [ `fail ${oneLine(error)} (while: ${run.doing})`, 1 ];
  }
  await run.goodbye();
  leave(...verdict);
}
