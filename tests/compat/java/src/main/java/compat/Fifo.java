package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.text;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.function.BiPredicate;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** FIFO: each message group in order, whatever fails. */
final class Fifo {
    /** Keeps the waits of the scenarios short. */
    static final String RETRY_QUICKLY = "retry=1s,1s";
    private static final List<String> LANES = IntStream.range(0, 5).mapToObj(number -> "lane-" + number).toList();
    private static final int LENGTH = 40;
    private static final String PUSH = "push";
    private static final String SIMPLE = "simple";
    private static final List<String> WHO = List.of(PUSH, SIMPLE);
    private static final Duration SHORT = Duration.ofSeconds(10);

    private Fifo() {
    }

    /** The lane, a body's first word, is the message group. */
    private static void sendInOrder(Producer producer, String topic, List<String> bodies) throws InterruptedException {
        for (String body : bodies) {
            Surely.send(producer, Run.PROVIDER.newMessageBuilder().setTopic(topic).setMessageGroup(laneOf(body)).setBody(bytes(body)).build());
        }
    }

    private static String laneOf(String body) {
        return body.split(" ")[0];
    }

    // ---- fifo-order

    static void order(Run run) throws Exception {
        String topic = run.topic("type=FIFO");
        for (String who : WHO) {
            run.group(who, RETRY_QUICKLY);
        }
        playOrder(run, topic, false);
    }

    static void orderHeir(Run run) throws Exception {
        playOrder(run, run.nameIn("fifo-order", "topic"), true);
    }

    private static void playOrder(Run run, String topic, boolean inherited) throws Exception {
        Ledger ledger = new Ledger(run);
        run.pushConsumer(run.nameIn("fifo-order", PUSH), topic, new Inbox(delivery -> {
            ledger.add(PUSH, delivery.body());
            return true;
        }));
        SimpleConsumer consumer = run.simpleConsumer(run.nameIn("fifo-order", SIMPLE), topic);
        Producer producer = run.producer(topic);
        Task receiving = new Task("receiving", task -> receiveAll(consumer, ledger, task));
        Task sending = new Task("sending", task -> sendRest(producer, topic, ledger));
        int total = LANES.size() * LENGTH;
        run.step("sending and receiving until the middle");
        Task.waitUntil(() -> ledger.least(WHO) > total / 4, ledger.progress(WHO, total), 40, receiving, sending);
        boolean harsh = run.middle("fifo-order-heir") || inherited;
        run.step("sending and receiving the rest");
        Task.waitUntil(() -> ledger.least(WHO) >= total, ledger.progress(WHO, total), 90, receiving, sending);
        sending.end();
        Thread.sleep(2_000);
        receiving.stop();
        for (String who : WHO) {
            LANES.forEach(lane -> ledger.expectInOrder(who, lane, LENGTH, !harsh));
            run.expectNoLag(run.nameIn("fifo-order", who), topic);
        }
    }

    /** Goes on after what is noted as sent. A send that was acknowledged but not noted is repeated. */
    private static void sendRest(Producer producer, String topic, Ledger ledger) throws InterruptedException {
        for (long number = 0; number < LENGTH; number++) {
            for (String lane : LANES) {
                if (!ledger.numbers("sent", lane).contains(number)) {
                    String body = lane + " " + number;
                    sendInOrder(producer, topic, List.of(body));
                    ledger.add("sent", body);
                }
            }
        }
    }

    private static void receiveAll(SimpleConsumer consumer, Ledger ledger, Task task) throws InterruptedException {
        while (!task.over()) {
            for (MessageView message : Surely.receive(consumer, 16, SHORT)) {
                ledger.add(SIMPLE, text(message));
                if (!Surely.ack(consumer, message)) {
                    // The rest of the batch may have been given to others; in order it comes again.
                    break;
                }
            }
        }
    }

    // ---- fifo-retry

    private static final List<String> SICK = IntStream.rangeClosed(1, 6).mapToObj(number -> "sick " + number).toList();
    private static final List<String> WELL = IntStream.rangeClosed(1, 6).mapToObj(number -> "well " + number).toList();

    /** Every delivery in order, and whether it succeeded. */
    private static final class Trials {
        private final BiPredicate<String, Long> fails;
        private final List<String> came = new ArrayList<>();
        private final List<String> done = new ArrayList<>();

        /** {@code fails} is asked with a body and how often it came before. */
        Trials(BiPredicate<String, Long> fails) {
            this.fails = fails;
        }

        /** Takes a delivery down and tells whether it succeeds. */
        synchronized boolean succeeds(String body) {
            long earlier = came.stream().filter(body::equals).count();
            came.add(body);
            boolean succeeds = !fails.test(body, earlier);
            if (succeeds) {
                done.add(body);
            }
            return succeeds;
        }

        synchronized List<String> done() {
            return List.copyOf(done);
        }

        synchronized List<String> cameIn(String lane) {
            return came.stream().filter(body -> laneOf(body).equals(lane)).toList();
        }

        void consumeByPush(Run run, String group, String topic, int wanted) throws Exception {
            run.pushConsumer(group, topic, new Inbox(delivery -> succeeds(delivery.body())));
            Task.waitUntil(() -> done().size() >= wanted, () -> "of " + wanted + " succeeded " + done(), 30);
        }

        /** One at a time: within a batch the order would be the application's own affair. */
        void consumeSimply(SimpleConsumer consumer, int wanted) throws ClientException {
            Clock waiting = new Clock(Duration.ofSeconds(40));
            while (done().size() < wanted) {
                require(!waiting.over(), "of " + wanted + " succeeded " + done() + " within 40 s");
                for (MessageView message : consumer.receive(1, SHORT)) {
                    if (succeeds(text(message))) {
                        consumer.ack(message);
                    } else {
                        consumer.changeInvisibleDuration(message, Duration.ofSeconds(2));
                    }
                }
            }
        }
    }

    static void retry(Run run) throws Exception {
        String topic = run.topic("type=FIFO");
        List<String> groups = List.of(run.group(PUSH, RETRY_QUICKLY, "max_attempts=5"), run.group(SIMPLE, RETRY_QUICKLY, "max_attempts=5"));
        run.step("sending two message groups");
        Producer producer = run.producer(topic);
        for (int index = 0; index < SICK.size(); index++) {
            sendInOrder(producer, topic, List.of(SICK.get(index), WELL.get(index)));
        }
        BiPredicate<String, Long> thirdFailsTwice = (body, earlier) -> body.equals(SICK.get(2)) && earlier < 2;
        run.step("consuming with a push consumer whose listener fails twice");
        Trials push = new Trials(thirdFailsTwice);
        push.consumeByPush(run, groups.get(0), topic, SICK.size() + WELL.size());
        expectHeldBack(PUSH, push);
        run.step("consuming with a simple consumer that lets the message come again twice");
        Trials simple = new Trials(thirdFailsTwice);
        simple.consumeSimply(run.simpleConsumer(groups.get(1), topic), SICK.size() + WELL.size());
        expectHeldBack(SIMPLE, simple);
        for (String group : groups) {
            run.expectNoLag(group, topic);
        }
    }

    private static void expectHeldBack(String who, Trials trials) {
        List<String> sick = Stream.of(SICK.subList(0, 3), List.of(SICK.get(2), SICK.get(2)), SICK.subList(3, 6)).flatMap(List::stream).toList();
        expectCame(who, trials, "sick", sick);
        expectCame(who, trials, "well", WELL);
        List<String> done = trials.done();
        say(who + " finished in the order " + done);
        require(done.indexOf(WELL.get(5)) < done.indexOf(SICK.get(2)), who + ": the other message group was held up: " + done);
    }

    private static void expectCame(String who, Trials trials, String lane, List<String> expected) {
        List<String> came = trials.cameIn(lane);
        require(came.equals(expected), who + " got " + came + " instead of " + expected);
    }

    // ---- fifo-dead

    private static final List<String> LANE = IntStream.rangeClosed(1, 4).mapToObj(number -> "lane " + number).toList();

    static void dead(Run run) throws Exception {
        String topic = run.topic("type=FIFO");
        for (String who : WHO) {
            run.group(who, RETRY_QUICKLY, "max_attempts=2");
        }
        run.step("sending a message group");
        sendInOrder(run.producer(topic), topic, LANE);
        String second = LANE.get(1);
        run.step("consuming with a push consumer that fails on the second message");
        Trials push = new Trials((body, earlier) -> body.equals(second));
        push.consumeByPush(run, run.name(PUSH), topic, LANE.size() - 1);
        run.step("consuming with a simple consumer that fails on the second message");
        Trials simple = new Trials((body, earlier) -> body.equals(second));
        simple.consumeSimply(run.simpleConsumer(run.name(SIMPLE), topic), LANE.size() - 1);
        for (String who : WHO) {
            expectCame(who, who.equals(PUSH) ? push : simple, "lane", List.of(LANE.get(0), second, second, LANE.get(2), LANE.get(3)));
            run.step("reading the dead letter queue of the " + who + " consumer");
            SimpleConsumer reader = run.simpleConsumer(run.group(who + "-reader"), "%DLQ%" + run.name(who));
            expectOnce(texts(collect(reader, 1, 15)), List.of(second));
            expectSilence(reader, 3);
            run.expectNoLag(run.name(who), topic);
        }
    }
}
