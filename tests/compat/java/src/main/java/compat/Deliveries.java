package compat;

import static compat.Run.require;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** What most scenarios do with messages: send them, collect them, compare what came with what was sent. */
final class Deliveries {
    /** Long enough that nothing of a scenario comes again by itself. */
    static final Duration LONG = Duration.ofSeconds(30);
    private static final int BATCH = 16;

    private Deliveries() {
    }

    static Message message(String topic, String body) {
        return Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(body)).build();
    }

    static void sendAll(Producer producer, String topic, List<String> bodies) throws ClientException {
        for (String body : bodies) {
            String id = producer.send(message(topic, body)).getMessageId().toString();
            require(!id.isEmpty(), "the receipt of `" + body + "` has no message id");
        }
    }

    static List<String> numbered(String name, int count) {
        return IntStream.range(0, count).mapToObj(index -> name + " " + index).toList();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static byte[] body(MessageView message) {
        ByteBuffer buffer = message.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        return body;
    }

    static String text(MessageView message) {
        return new String(body(message), StandardCharsets.UTF_8);
    }

    static List<String> texts(List<MessageView> messages) {
        return messages.stream().map(Deliveries::text).toList();
    }

    /** Receives and acknowledges until {@code wanted} messages have come; fails when the time is over. */
    static List<MessageView> collect(SimpleConsumer consumer, int wanted, int seconds) throws ClientException {
        return collect(consumer, wanted, seconds, LONG, BATCH);
    }

    static List<MessageView> collect(SimpleConsumer consumer, int wanted, int seconds, Duration invisible, int batch) throws ClientException {
        List<MessageView> got = new ArrayList<>();
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (got.size() < wanted) {
            List<MessageView> some = receiveSome(consumer, wanted - got.size(), invisible, batch, waiting);
            for (MessageView message : some) {
                consumer.ack(message);
            }
            got.addAll(some);
        }
        return got;
    }

    /** As {@link #collect}, without acknowledgements. */
    static List<MessageView> take(SimpleConsumer consumer, int wanted, int seconds, Duration invisible) throws ClientException {
        List<MessageView> got = new ArrayList<>();
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (got.size() < wanted) {
            got.addAll(receiveSome(consumer, wanted - got.size(), invisible, BATCH, waiting));
        }
        return got;
    }

    private static List<MessageView> receiveSome(SimpleConsumer consumer, int missing, Duration invisible, int batch, Clock waiting)
        throws ClientException {
        require(!waiting.over(), missing + " messages did not come in time");
        int most = Math.min(batch, missing);
        List<MessageView> some = consumer.receive(most, invisible);
        require(some.size() <= most, "asked for at most " + most + " messages and got " + some.size());
        return some;
    }

    /** Receives for so long; any delivery is a failure. */
    static void expectSilence(SimpleConsumer consumer, int seconds) throws ClientException {
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (!waiting.over()) {
            for (MessageView message : consumer.receive(BATCH, LONG)) {
                String text = text(message);
                throw new Run.Failed("`" + text.substring(0, Math.min(60, text.length())) + "` came again with attempt "
                    + message.getDeliveryAttempt());
            }
        }
    }

    /** Exactly the expected bodies, each once. */
    static void expectOnce(List<String> bodies, List<String> expected) {
        Set<String> different = new HashSet<>();
        List<String> twice = bodies.stream().filter(body -> !different.add(body)).toList();
        List<String> missing = expected.stream().filter(body -> !different.contains(body)).toList();
        Set<String> known = new HashSet<>(expected);
        List<String> foreign = bodies.stream().filter(body -> !known.contains(body)).toList();
        require(twice.isEmpty(), "delivered more than once: " + few(twice));
        require(missing.isEmpty(), missing.size() + " of " + expected.size() + " not delivered: " + few(missing));
        require(foreign.isEmpty(), "delivered but not expected: " + few(foreign));
    }

    static List<String> few(List<String> many) {
        return many.subList(0, Math.min(5, many.size()));
    }
}
