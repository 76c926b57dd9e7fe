package compat;

import static compat.Run.require;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

/**
 * A road to the server that can lose an answer: the request gets through, the answer doesn't, and then the connection is cut. It passes bytes
 * on and knows nothing of what they mean.
 */
final class LossyRoad {
    /** Between the first byte that is lost and the cut: the answer to the request that caused it is lost as well. */
    private static final int CUT_AFTER_MS = 500;

    private final ServerSocket entrance;
    private final String host;
    private final int port;
    private volatile boolean losing;
    private volatile long towardsServer;
    private volatile int cuts;

    LossyRoad(String endpoint) throws IOException {
        int colon = endpoint.lastIndexOf(':');
        host = endpoint.substring(0, colon);
        port = Integer.parseInt(endpoint.substring(colon + 1));
        entrance = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        Run.inBackground("road", this::accept);
    }

    String endpoint() {
        return "127.0.0.1:" + entrance.getLocalPort();
    }

    void loseNextAnswer() {
        towardsServer = 0;
        losing = true;
    }

    /** After a call: so many bytes reached the server, and what it answered was lost. */
    void expectLost(int bytes) {
        require(cuts > 0, "no answer was lost");
        require(towardsServer > bytes, "only " + towardsServer + " bytes reached the server before the cut");
        cuts = 0;
    }

    private void accept() throws IOException {
        while (true) {
            Socket client = entrance.accept();
            Socket server = new Socket(host, port);
            client.setTcpNoDelay(true);
            server.setTcpNoDelay(true);
            Run.inBackground("road to the server", () -> passToServer(client, server));
            Run.inBackground("road to the client", () -> passToClient(server, client));
        }
    }

    private void passToServer(Socket client, Socket server) throws IOException {
        byte[] buffer = new byte[1 << 16];
        try (client; server; InputStream in = client.getInputStream(); OutputStream out = server.getOutputStream()) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                out.write(buffer, 0, count);
                towardsServer += losing ? count : 0;
            }
        } catch (IOException cut) {
            // The other direction closed both ends.
            return;
        }
    }

    private void passToClient(Socket server, Socket client) throws InterruptedException {
        byte[] buffer = new byte[1 << 16];
        try (client; server; InputStream in = server.getInputStream(); OutputStream out = client.getOutputStream()) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                if (losing) {
                    Thread.sleep(CUT_AFTER_MS);
                    losing = false;
                    cuts++;
                    return;
                }
                out.write(buffer, 0, count);
            }
        } catch (IOException cut) {
            return;
        }
    }
}
