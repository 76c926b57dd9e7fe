package compat;

import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.List;
import java.util.OptionalInt;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/**
 * Calls for scenarios in which the server is away for a moment: they go on until there is an answer.
 *
 * <p>While the server is away the client throws what gRPC throws, which is no {@code ClientException}.
 */
final class Surely {
    private static final int PAUSE_MS = 200;
    private static final int TOO_MANY_REQUESTS = 42900;
    private static final int NOT_IMPLEMENTED = 50100;

    private Surely() {
    }

    /** Sends until the message is acknowledged. */
    static void send(Producer producer, Message message) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(30));
        while (true) {
            try {
                producer.send(message);
                return;
            } catch (ClientException | RuntimeException error) {
                require(!isFinal(error), "a send was refused: " + Run.oneLine(error));
                require(!waiting.over(), "no send was acknowledged within 30 s: " + Run.oneLine(error));
                say("a send failed and is repeated: " + Run.oneLine(error));
                Thread.sleep(PAUSE_MS);
            }
        }
    }

    /** Tells whether the acknowledgement was accepted; after a restart a handle may have ended. */
    static boolean ack(SimpleConsumer consumer, MessageView message) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(20));
        while (true) {
            try {
                consumer.ack(message);
                return true;
            } catch (ClientException | RuntimeException error) {
                if (isFinal(error)) {
                    say("an acknowledgement was refused: " + Run.oneLine(error));
                    return false;
                }
                require(!waiting.over(), "no acknowledgement got through within 20 s: " + Run.oneLine(error));
                Thread.sleep(PAUSE_MS);
            }
        }
    }

    /** Takes a call that breaks for one that brought nothing. */
    static List<MessageView> receive(SimpleConsumer consumer, int most, Duration invisible) throws InterruptedException {
        try {
            return consumer.receive(most, invisible);
        } catch (ClientException | RuntimeException error) {
            require(!isFinal(error), "a receive was refused: " + Run.oneLine(error));
            say("a receive broke: " + Run.oneLine(error));
            Thread.sleep(PAUSE_MS);
            return List.of();
        }
    }

    /** Whether the server answered and said something that will not change by itself. */
    private static boolean isFinal(Exception error) {
        OptionalInt code = Run.code(error);
        return code.isPresent() && code.getAsInt() != TOO_MANY_REQUESTS && (code.getAsInt() < 50_000 || code.getAsInt() == NOT_IMPLEMENTED);
    }
}
