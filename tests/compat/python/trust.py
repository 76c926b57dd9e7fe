"""Makes the client trust the server under test.

The Python client verifies certificates against its library's roots and has no switch for it, while a test server has a certificate of its
own making. So the certificate is fetched first, without checking it, and becomes the only root of this process, whatever the environment
says. It must happen before the client is imported, because gRPC reads its roots once; for the same reason the server must keep its
certificate when it restarts.
"""

import os
import socket
import ssl

ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


def trust_server(endpoint, folder):
    """Points gRPC's roots at the certificate that `endpoint` shows."""
    host, port = endpoint.rsplit(":", 1)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            certificate = secure.getpeercert(binary_form=True)
    path = os.path.join(folder, "server.pem")
    with open(path, "w", encoding="ascii") as file:
        file.write(ssl.DER_cert_to_PEM_cert(certificate))
    os.environ[ROOTS] = path
