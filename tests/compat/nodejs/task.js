/** Work beside the scenario, and waiting for what it brings. */
import { now, require, sleep } from './harness.js';

const LOOK_MS = 50;
const END_MS = 30_000;

/** What fails in a task fails the scenario where it looks at the task. */
export class Task {
  #failure;
  #ended;
  over = false;

  constructor(work) {
    this.#ended = work(this).catch(failure => {
      this.#failure = failure;
    });
  }

  look() {
    if (this.#failure) throw this.#failure;
  }

  /** Waits for the task, which must end by itself. */
  async end() {
    const stuck = sleep(END_MS, true, { ref: false });
    require(!await Promise.race([ this.#ended, stuck ]), `a task did not end within ${END_MS / 1000} s`);
    this.look();
  }

  async stop() {
    this.over = true;
    await this.end();
  }
}

/** Looks often until it holds; fails when the time is over or one of the tasks failed. */
export async function waitUntil(holds, what, seconds, ...tasks) {
  const deadline = now() + seconds;
  while (!holds()) {
    for (const task of tasks) task.look();
    require(now() < deadline, `not within ${seconds} s: ${what()}`);
    await sleep(LOOK_MS);
  }
}
