/**
 * Plays one scenario with the unmodified Node.js client: parse the arguments, prepare the process, play, give the verdict.
 *
 * Read `harness.js` next (how scenarios talk to the runner), then one file per family of scenarios.
 */
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { play, Run } from './harness.js';
import { trustServer } from './trust.js';

/** Name to function. Imported late: grpc-js looks for its roots when it is imported. */
async function scenarios() {
  const [ send, push, simple, filter, limits, faults ] = await Promise.all([
    import('./send.js'), import('./push.js'), import('./simple.js'), import('./filter.js'), import('./limits.js'), import('./faults.js'),
  ]);
  return {
    ...await messageKinds(),
    send_sync: send.sendSync,
    send_async: send.sendAsync,
    push_success: push.pushSuccess,
    push_retry_dlq: push.pushRetryDlq,
    push_retry_then_ok: push.pushRetryThenOk,
    simple_receive_ack: simple.simpleReceiveAck,
    simple_expire_redeliver: simple.simpleExpireRedeliver,
    simple_change_invisible: simple.simpleChangeInvisible,
    simple_late_ack: simple.simpleLateAck,
    tag_filter: filter.tagFilter,
    group_shares: push.groupShares,
    groups_each: push.groupsEach,
    body_4m: limits.body4m,
    body_too_big: limits.bodyTooBig,
    body_empty: limits.bodyEmpty,
    illegal_names: limits.illegalNames,
    unknown_topic: limits.unknownTopic,
    server_killed: faults.serverKilled,
    consumer_killed: faults.consumerKilled,
    consumer_killed_heir: faults.consumerKilledHeir,
    producer_restart_handle: faults.producerRestartHandle,
  };
}

async function messageKinds() {
  const [ fifo, delay, transactions, sql, priority, lite, identity, letters ] = await Promise.all([
    import('./fifo.js'), import('./delay.js'), import('./transactions.js'), import('./sql.js'), import('./priority.js'), import('./lite.js'),
    import('./identity.js'), import('./letters.js'),
  ]);
  return {
    'fifo-order': fifo.fifoOrder,
    'fifo-order-heir': fifo.fifoOrderHeir,
    'fifo-retry': fifo.fifoRetry,
    'fifo-dead': fifo.fifoDead,
    delay: delay.delay,
    'delay-heir': delay.delayHeir,
    'delay-recall': delay.delayRecall,
    'txn-commit': transactions.txnCommit,
    'txn-rollback': transactions.txnRollback,
    'txn-check': transactions.txnCheck,
    'txn-check-heir': transactions.txnCheckHeir,
    'txn-check-other': transactions.txnCheckOther,
    'txn-check-other-heir': transactions.txnCheckOtherHeir,
    'sql-filter': sql.sqlFilter,
    'sql-filter-heir': sql.sqlFilterHeir,
    priority: priority.priority,
    'priority-heir': priority.priorityHeir,
    lite: lite.lite,
    'lite-heir': lite.liteHeir,
    dedup: identity.dedup,
    'trace-context': identity.traceContext,
    namespace: identity.namespace,
    'nack-dlq-redrive': letters.nackDlqRedrive,
  };
}

function givenArguments() {
  const { values } = parseArgs({
    options: { scenario: { type: 'string' }, endpoint: { type: 'string' }, tls: { type: 'string' }, run: { type: 'string' } },
  });
  const missing = [ 'scenario', 'endpoint', 'tls', 'run' ].filter(name => !values[name]);
  if (missing.length > 0 || ![ 'on', 'off' ].includes(values.tls)) {
    console.error('usage: run --scenario NAME --endpoint HOST:PORT --tls on|off --run ID');
    process.exit(2);
  }
  return values;
}

function logFolder(given) {
  const base = process.env.GANTRY_LOG_DIR || join(tmpdir(), 'gantry-compat-logs');
  const folder = join(base, `nodejs-${given.scenario}-${given.run}-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  return folder;
}

const given = givenArguments();
const folder = logFolder(given);
const tls = given.tls === 'on';
const run = new Run({ scenario: given.scenario, endpoint: given.endpoint, tls, id: given.run, logFile: join(folder, 'client.log') });
await play(run, scenarios, async () => {
  if (tls) await trustServer(given.endpoint, folder);
});
