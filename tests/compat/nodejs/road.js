/** A road to the server that can lose an answer. It passes bytes on and knows nothing of what they mean. */
import { connect, createServer } from 'node:net';
import { require } from './harness.js';

// Between the first byte that is lost and the cut: the answer to the request that caused it is lost as well.
const CUT_AFTER_MS = 500;

export class LossyRoad {
  #entrance;
  #losing = false;
  #towardsServer = 0;
  #cuts = 0;

  /** Opens a road to the server. */
  static async to(endpoint) {
    const road = new LossyRoad();
    const colon = endpoint.lastIndexOf(':');
    const [ host, port ] = [ endpoint.slice(0, colon), Number(endpoint.slice(colon + 1)) ];
    road.#entrance = createServer(client => road.#join(client, connect(port, host)));
    await new Promise(resolve => road.#entrance.listen(0, '127.0.0.1', resolve));
    return road;
  }

  get endpoint() {
    return `127.0.0.1:${this.#entrance.address().port}`;
  }

  /** The next request gets through, its answer doesn't, and then the connection is cut. */
  loseNextAnswer() {
    this.#towardsServer = 0;
    this.#losing = true;
  }

  /** After a call: more than so many bytes reached the server, and what it answered was lost. */
  expectLost(bytes) {
    require(this.#cuts > 0, 'no answer was lost');
    require(this.#towardsServer > bytes, `only ${this.#towardsServer} bytes reached the server before the cut`);
    this.#cuts = 0;
  }

  #join(client, server) {
    const cut = () => {
      client.destroy();
      server.destroy();
    };
    for (const end of [ client, server ]) end.setNoDelay(true).on('close', cut).on('error', cut);
    client.on('data', bytes => {
      if (this.#losing) this.#towardsServer += bytes.length;
      server.write(bytes);
    });
    let lost = false;
    server.on('data', bytes => {
      if (!this.#losing && !lost) return client.write(bytes);
      if (lost) return;
      lost = true;
      setTimeout(() => {
        this.#losing = false;
        this.#cuts++;
        cut();
      }, CUT_AFTER_MS);
    });
  }
}
