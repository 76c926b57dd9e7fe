package compat;

import static compat.Deliveries.collect;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.few;
import static compat.Deliveries.message;
import static compat.Deliveries.numbered;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.take;
import static compat.Deliveries.text;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/**
 * Faults: the server or the consumer is killed, and nothing acknowledged is lost or repeated.
 *
 * <p>While the server is away the client throws what gRPC throws, which is no {@code ClientException}.
 */
final class Faults {
    /** The client acknowledges right after the listener; what was consumed this long before the kill counts as acknowledged. */
    private static final int SETTLED_S = 2;

    private Faults() {
    }

    /** Sends numbered messages until it is stopped and remembers when each was acknowledged. */
    private static final class Stream {
        private final Map<String, Double> acknowledged = new ConcurrentHashMap<>();
        private final Thread sending;
        private volatile boolean stopped;

        Stream(Producer producer, String topic) {
            sending = Run.inBackground("stream", () -> send(producer, topic));
        }

        private void send(Producer producer, String topic) throws InterruptedException {
            for (int index = 0; !stopped; index++) {
                String body = "stream " + index;
                try {
                    producer.send(message(topic, body));
                    acknowledged.put(body, Clock.now());
                    Thread.sleep(20);
                } catch (ClientException | RuntimeException error) {
                    say("send of `" + body + "` failed, which is allowed while the server is away: " + Run.oneLine(error));
                    Thread.sleep(200);
                }
            }
        }

        Map<String, Double> stop() throws InterruptedException {
            stopped = true;
            sending.join(20_000);
            require(!sending.isAlive(), "a send did not return within 20 s");
            return acknowledged;
        }
    }

    static void serverKilled(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        String auditors = run.group("auditors");
        Inbox inbox = new Inbox();
        run.pushConsumer(group, topic, inbox);
        Stream stream = new Stream(run.producer(topic), topic);
        run.step("sending and receiving before the kill");
        inbox.waitFor(20, 15);
        Thread.sleep(3_000);
        double killedAt = Clock.now();
        Set<String> settled = inbox.deliveries().stream().filter(one -> one.at() < killedAt - SETTLED_S).map(Inbox.Delivery::body)
            .collect(Collectors.toSet());
        run.step("asking for a restart");
        run.ask("restart");
        double restartedAt = Clock.now();
        run.step("sending and receiving after the restart");
        Thread.sleep(6_000);
        Map<String, Double> acknowledged = stream.stop();
        say(acknowledged.size() + " sends acknowledged, " + settled.size() + " messages consumed for certain before the kill");
        require(acknowledged.values().stream().anyMatch(at -> at > restartedAt), "no send was acknowledged after the restart");
        waitForAll(inbox, acknowledged.keySet());
        inbox.waitQuiet(4);
        expectGoneOn(inbox, restartedAt);
        List<String> again = inbox.deliveries().stream().filter(one -> one.at() > killedAt && settled.contains(one.body()))
            .map(Inbox.Delivery::body).toList();
        require(again.isEmpty(), again.size() + " acknowledged messages came again: " + few(again));
        run.step("looking for every acknowledged send with a group that starts at the beginning");
        expectStored(run.simpleConsumer(auditors, topic), acknowledged.keySet());
    }

    /** Most messages were consumed before the kill; that they survived it shows only to a group that has not seen them. */
    private static void expectStored(SimpleConsumer auditor, Set<String> acknowledged) throws ClientException {
        Set<String> missing = new HashSet<>(acknowledged);
        Clock waiting = new Clock(Duration.ofSeconds(20));
        while (!missing.isEmpty()) {
            require(!waiting.over(), missing.size() + " acknowledged sends are gone after the restart: " + few(List.copyOf(missing)));
            for (MessageView one : auditor.receive(32, Deliveries.LONG)) {
                missing.remove(text(one));
            }
        }
    }

    private static void waitForAll(Inbox inbox, Set<String> expected) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(75));
        while (true) {
            Set<String> got = new HashSet<>(inbox.bodies());
            List<String> missing = expected.stream().filter(body -> !got.contains(body)).toList();
            if (missing.isEmpty()) {
                return;
            }
            require(!waiting.over(), missing.size() + " acknowledged sends were not received within 75 s: " + few(missing));
            Thread.sleep(200);
        }
    }

    private static void expectGoneOn(Inbox inbox, double restartedAt) {
        List<Inbox.Delivery> after = inbox.deliveries().stream().filter(one -> one.at() > restartedAt).toList();
        require(!after.isEmpty(), "the consumer received nothing after the restart");
        say("first delivery " + Clock.written(after.get(0).at() - restartedAt) + " after the restart");
    }

    static void consumerKilled(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        sendAll(run.producer(topic), topic, numbered("inherited", 10));
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("receiving ten and acknowledging five");
        for (MessageView one : take(consumer, 10, 8, Duration.ofSeconds(10))) {
            if (wasAcknowledged(one)) {
                consumer.ack(one);
            }
        }
        run.step("asking to be killed");
        run.ask("kill-me consumer_killed_heir");
        throw new Run.Failed("the runner answered `kill-me` instead of killing this program");
    }

    /** Both lives of the consumer must agree on the five; the body tells. */
    private static boolean wasAcknowledged(MessageView one) {
        return Integer.parseInt(text(one).split(" ")[1]) < 5;
    }

    static void consumerKilledHeir(Run run) throws Exception {
        String topic = run.nameIn("consumer_killed", "topic");
        String group = run.nameIn("consumer_killed", "group");
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("waiting for the five that were not acknowledged");
        List<MessageView> got = collect(consumer, 5, 30);
        require(got.stream().noneMatch(Faults::wasAcknowledged), "acknowledged ones came again: " + texts(got));
        require(new HashSet<>(texts(got)).size() == 5, "expected five different messages: " + texts(got));
        List<Integer> attempts = got.stream().map(MessageView::getDeliveryAttempt).toList();
        require(attempts.stream().allMatch(attempt -> attempt == 2), "the redeliveries have attempts " + attempts + " instead of 2");
        run.step("expecting nothing else");
        expectSilence(consumer, 12);
        run.expectNoLag(group, topic);
    }

    static void producerRestartHandle(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        sendAll(run.producer(topic), topic, List.of("held across the restart"));
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("receiving before the restart");
        MessageView held = take(consumer, 1, 15, Duration.ofSeconds(30)).get(0);
        // Counted from the receive: the acknowledgement must come before the invisible duration ends, the silence must outlast it.
        Clock ackInTime = new Clock(Duration.ofSeconds(25));
        Clock invisible = new Clock(Duration.ofSeconds(35));
        run.step("asking for a restart");
        run.ask("restart");
        run.step("acknowledging with the handle from before the restart");
        acknowledge(consumer, held, ackInTime);
        run.step("expecting no redelivery after the invisible duration");
        while (!invisible.over()) {
            quietAfterARestart(consumer);
        }
        run.expectNoLag(group, topic);
    }

    /** The connection may need a moment to come back; only an answer of the server is final. */
    private static void acknowledge(SimpleConsumer consumer, MessageView held, Clock inTime) throws InterruptedException {
        while (true) {
            try {
                consumer.ack(held);
                return;
            } catch (ClientException | RuntimeException error) {
                require(Run.code(error).isEmpty(), "the acknowledgement was refused: " + Run.oneLine(error));
                require(!inTime.over(), "the acknowledgement did not get through: " + Run.oneLine(error));
                say("the acknowledgement did not get through yet: " + Run.oneLine(error));
                Thread.sleep(500);
            }
        }
    }

    private static void quietAfterARestart(SimpleConsumer consumer) throws InterruptedException {
        try {
            expectSilence(consumer, 3);
        } catch (ClientException | RuntimeException error) {
            say("a receive failed, which is allowed right after the restart: " + Run.oneLine(error));
            Thread.sleep(500);
        }
    }
}
