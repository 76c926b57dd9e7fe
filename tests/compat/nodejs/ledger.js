/**
 * What consumers finished, in order, kept by the runner as notes (`<consumer> <lane> <number>`) so that it outlives this program.
 *
 * A lane is a stream whose messages have an order: a message group, or a lite topic. Take a message down just before it is acknowledged:
 * then one that comes again after a kill is here twice, never missing.
 */
import { require, say } from './harness.js';

export class Ledger {
  #run;
  #entries;

  static async of(run) {
    const ledger = new Ledger();
    ledger.#run = run;
    ledger.#entries = (await run.notes()).map(note => {
      const [ who, lane, number ] = note.split(' ');
      return { who, lane, number: Number(number) };
    });
    return ledger;
  }

  /** `body` is `<lane> <number>`. */
  add(who, body) {
    const [ lane, number ] = body.split(' ');
    this.#run.note(`${who} ${body}`);
    this.#entries.push({ who, lane, number: Number(number) });
  }

  numbers(who, lane) {
    return this.#entries.filter(entry => entry.who === who && entry.lane === lane).map(entry => entry.number);
  }

  /** The bodies that the consumer finished for the first time, in order. */
  firsts(who) {
    return [ ...new Set(this.#entries.filter(entry => entry.who === who).map(entry => `${entry.lane} ${entry.number}`)) ];
  }

  /** How many different messages that consumer finished which finished the fewest. */
  least(...who) {
    return Math.min(...who.map(one => this.firsts(one).length));
  }

  progress(...who) {
    return who.map(one => `${one} finished ${this.firsts(one).length}`).join(', ');
  }

  /** The first successes are 0, 1, … in this order. `once`: and nothing came a second time. */
  expectInOrder(who, lane, length, once) {
    const came = this.numbers(who, lane);
    const firsts = [ ...new Set(came) ];
    const inOrder = firsts.length === length && firsts.every((number, index) => number === index);
    require(inOrder, `${who} finished ${lane} in the order ${firsts} instead of 0 to ${length - 1}`);
    if (came.length > firsts.length) say(`${who} finished ${came.length - firsts.length} messages of ${lane} more than once`);
    require(!once || came.length === firsts.length, `${who} got messages of ${lane} more than once: ${came}`);
  }

  /** The numbers below `length` in any order. `once`: each once. */
  expectAll(who, lane, length, once) {
    const came = this.numbers(who, lane);
    const different = [ ...new Set(came) ].sort((left, right) => left - right);
    require(different.length === length && different.every((number, index) => number === index), `of \`${lane}\` came ${came}`);
    require(!once || came.length === length, `of \`${lane}\` some came more than once: ${came}`);
  }
}
