package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.text;
import static compat.Run.require;

import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.stream.Stream;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Priority: of what waits, the highest comes first. */
final class Priority {
    private static final List<Integer> LEVELS = List.of(0, 4, 9);
    private static final int EACH = 10;
    private static final int TOTAL = LEVELS.size() * EACH;
    private static final Duration SHORT = Duration.ofSeconds(10);

    private Priority() {
    }

    static void priority(Run run) throws Exception {
        String topic = run.topic("type=PRIORITY");
        String group = run.group();
        Producer producer = run.producer(topic);
        run.step("sending all priorities mixed, before there is a consumer");
        for (int number = 0; number < EACH; number++) {
            for (int level : LEVELS) {
                producer.send(Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes("p" + level + " " + number)).setPriority(level).build());
            }
        }
        Ledger ledger = new Ledger(run);
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("receiving half, one at a time");
        receiveSingly(consumer, ledger, TOTAL / 2);
        boolean restarted = run.middle("priority-heir");
        receiveRest(run, consumer, topic, ledger, !restarted);
    }

    static void priorityHeir(Run run) throws Exception {
        String topic = run.nameIn("priority", "topic");
        SimpleConsumer consumer = run.simpleConsumer(run.nameIn("priority", "group"), topic);
        receiveRest(run, consumer, topic, new Ledger(run), false);
    }

    private static void receiveSingly(SimpleConsumer consumer, Ledger ledger, int wanted) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(40));
        while (ledger.firsts("got").size() < wanted) {
            require(!waiting.over(), "of " + wanted + " came within 40 s only " + ledger.firsts("got"));
            for (MessageView message : Surely.receive(consumer, 1, SHORT)) {
                ledger.add("got", text(message));
                Surely.ack(consumer, message);
            }
        }
    }

    private static void receiveRest(Run run, SimpleConsumer consumer, String topic, Ledger ledger, boolean once) throws Exception {
        run.step("receiving the rest, one at a time");
        receiveSingly(consumer, ledger, TOTAL);
        List<String> came = ledger.firsts("got").stream().map(body -> body.split(" ")[0]).toList();
        List<String> expected = Stream.of(9, 4, 0).flatMap(level -> Collections.nCopies(EACH, "p" + level).stream()).toList();
        require(came.equals(expected), "the priorities came in the order " + came);
        run.step("expecting nothing else");
        expectSilence(consumer, once ? 3 : 12);
        LEVELS.forEach(level -> ledger.expectAll("got", "p" + level, EACH, once));
        run.expectNoLag(run.nameIn("priority", "group"), topic);
    }
}
