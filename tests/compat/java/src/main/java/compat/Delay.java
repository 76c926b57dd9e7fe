package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.numbered;
import static compat.Deliveries.text;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;

/** Delayed messages: never early, soon when due, and gone when recalled in time. Times are milliseconds since 1970. */
final class Delay {
    private static final long EARLY_MS = 50;
    private static final long LATE_MS = 10_000;
    /** After a kill the client needs a moment to connect again before it can be on time. */
    private static final long RECOVERY_MS = 6_000;
    private static final int EACH = 5;
    private static final Duration SHORT = Duration.ofSeconds(10);

    private Delay() {
    }

    private static long dueIn(Duration span) {
        return System.currentTimeMillis() + span.toMillis();
    }

    private static Message message(String topic, String body, long due) {
        return Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(body)).setDeliveryTimestamp(due).build();
    }

    static void delay(Run run) throws Exception {
        String topic = run.topic("type=DELAY");
        String group = run.group();
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        Producer producer = run.producer(topic);
        Ledger ledger = new Ledger(run);
        run.step("sending");
        Map<String, Long> dues = new LinkedHashMap<>();
        dues.put("past", dueIn(Duration.ofMinutes(-1)));
        dues.put("soon", dueIn(Duration.ofSeconds(2)));
        dues.put("later", dueIn(Duration.ofSeconds(5)));
        for (Map.Entry<String, Long> lane : dues.entrySet()) {
            for (String body : numbered(lane.getKey(), EACH)) {
                producer.send(message(topic, body, lane.getValue()));
            }
            // So that an heir knows as well.
            Run.note("due " + lane.getKey() + " " + lane.getValue());
        }
        long sent = System.currentTimeMillis();
        boolean restarted = run.middle("delay-heir");
        long ready = restarted ? System.currentTimeMillis() + RECOVERY_MS : sent;
        receiveOnTime(consumer, ledger, dues, ready);
        expectRest(run, consumer, group, topic, ledger, !restarted);
    }

    static void delayHeir(Run run) throws Exception {
        String topic = run.nameIn("delay", "topic");
        String group = run.nameIn("delay", "group");
        Ledger ledger = new Ledger(run);
        Map<String, Long> dues = new LinkedHashMap<>();
        for (String lane : List.of("past", "soon", "later")) {
            dues.put(lane, ledger.numbers("due", lane).get(0));
        }
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        receiveOnTime(consumer, ledger, dues, System.currentTimeMillis() + RECOVERY_MS);
        expectRest(run, consumer, group, topic, ledger, false);
    }

    /** Nothing counts as late before {@code ready}. */
    private static void receiveOnTime(SimpleConsumer consumer, Ledger ledger, Map<String, Long> dues, long ready) throws Exception {
        long worst = 0;
        Clock waiting = new Clock(Duration.ofSeconds(40));
        while (ledger.firsts("got").size() < EACH * dues.size()) {
            require(!waiting.over(), "within 40 s came only " + ledger.firsts("got"));
            for (MessageView message : Surely.receive(consumer, 16, SHORT)) {
                String body = text(message);
                long now = System.currentTimeMillis();
                long due = dues.get(body.split(" ")[0]);
                long carried = message.getDeliveryTimestamp().orElse(0L);
                require(carried == due, "`" + body + "` carries the delivery timestamp " + carried + " instead of " + due);
                require(now >= due - EARLY_MS, "`" + body + "` came " + (due - now) + " ms early");
                long late = now - Math.max(due, ready);
                worst = Math.max(worst, late);
                require(late <= LATE_MS, "`" + body + "` came " + late + " ms late");
                ledger.add("got", body);
                consumer.ack(message);
            }
        }
        say("the latest came " + worst + " ms after it was due");
    }

    private static void expectRest(Run run, SimpleConsumer consumer, String group, String topic, Ledger ledger, boolean once) throws Exception {
        run.step("expecting nothing else");
        expectSilence(consumer, once ? 3 : 12);
        for (String lane : List.of("past", "soon", "later")) {
            ledger.expectAll("got", lane, EACH, once);
        }
        run.expectNoLag(group, topic);
    }

    static void recall(Run run) throws Exception {
        String topic = run.topic("type=DELAY");
        String group = run.group();
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        Producer producer = run.producer(topic);
        run.step("recalling before the time");
        SendReceipt receipt = producer.send(message(topic, "recalled", dueIn(Duration.ofSeconds(6))));
        require(!receipt.getRecallHandle().isEmpty(), "the receipt of a delayed message has no recall handle");
        String recalled = producer.recallMessage(topic, receipt.getRecallHandle()).getMessageId().toString();
        require(recalled.equals(receipt.getMessageId().toString()),
            "the recall answered message id `" + recalled + "` instead of `" + receipt.getMessageId() + "`");
        run.step("expecting that it never comes");
        expectSilence(consumer, 10);

        run.step("recalling after the delivery");
        SendReceipt late = producer.send(message(topic, "delivered", dueIn(Duration.ofSeconds(1))));
        expectOnce(texts(collect(consumer, 1, 10)), List.of("delivered"));
        Exception refusal = Limits.refusal(() -> producer.recallMessage(topic, late.getRecallHandle()));
        require(refusal != null, "the late recall was answered with success");
        require(Run.code(refusal).isPresent(), "the late recall was not answered: " + Run.oneLine(refusal));
        say("the late recall was refused: " + Run.oneLine(refusal));
        run.expectNoLag(group, topic);
    }
}
