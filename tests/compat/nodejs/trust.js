/**
 * Makes the client trust the server under test.
 *
 * With `sslEnabled` the Node.js client verifies certificates and has no switch for it, while a test server has a certificate of its own
 * making. So the certificate is fetched first, without checking it, and becomes the only root of this process. It must happen before the
 * client is imported, because grpc-js looks for its roots once; for the same reason the server must keep its certificate when it restarts.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';

const ROOTS = 'GRPC_DEFAULT_SSL_ROOTS_FILE_PATH';

/** Points grpc-js's roots at the certificate that `endpoint` shows. */
export async function trustServer(endpoint, folder) {
  const [ host, port ] = endpoint.split(':');
  const path = join(folder, 'server.pem');
  writeFileSync(path, pem(await shownCertificate(host, Number(port))));
  process.env[ROOTS] = path;
}

function shownCertificate(host, port) {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, rejectUnauthorized: false, ALPNProtocols: [ 'h2' ], timeout: 5000 });
    socket.once('secureConnect', () => {
      resolve(socket.getPeerCertificate().raw);
      socket.end();
    });
    socket.once('error', reject);
    socket.once('timeout', () => socket.destroy(new Error('no TLS handshake within 5 s')));
  });
}

function pem(der) {
  const lines = der.toString('base64').match(/.{1,64}/g);
  return [ '-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', '' ].join('\n');
}
