package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.text;
import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.List;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Lite topics: a client gets those that it subscribed to, each in order. This client has a push consumer for them and no simple one. */
final class Lite {
    private static final String PUSH = "push";
    private static final List<String> SUBSCRIBED = List.of("one", "two");
    private static final List<String> ALL = List.of("one", "two", "three");
    private static final int LENGTH = 30;
    private static final int LATER = 5;

    private Lite() {
    }

    static void lite(Run run) throws Exception {
        String topic = run.topic("type=LITE");
        run.group(PUSH, "lite=" + topic, Fifo.RETRY_QUICKLY);
        playLite(run, topic, false);
    }

    static void liteHeir(Run run) throws Exception {
        playLite(run, run.nameIn("lite", "topic"), true);
    }

    private static void playLite(Run run, String topic, boolean inherited) throws Exception {
        Ledger ledger = new Ledger(run);
        run.step("subscribing to two of three");
        LitePushConsumer consumer = run.litePushConsumer(run.nameIn("lite", PUSH), topic, message -> {
            String body = text(message);
            // The lane is the lite topic that it came with, which must be the one that it was sent with.
            ledger.add(PUSH, message.getLiteTopic().orElse("none") + " " + body.substring(body.indexOf(' ') + 1));
            return ConsumeResult.SUCCESS;
        });
        for (String name : SUBSCRIBED) {
            subscribe(consumer, name);
        }
        Producer producer = run.producer(topic);
        Task sending = new Task("sending", task -> sendRest(producer, topic, ledger));
        List<String> who = List.of(PUSH);
        int total = SUBSCRIBED.size() * LENGTH;
        run.step("sending and receiving until the middle");
        Task.waitUntil(() -> ledger.least(who) > total / 4, ledger.progress(who, total), 30, sending);
        boolean harsh = run.middle("lite-heir") || inherited;
        run.step("sending and receiving the rest");
        Task.waitUntil(() -> ledger.least(who) >= total, ledger.progress(who, total), 90, sending);
        sending.end();
        run.step("unsubscribing from one of the two");
        consumer.unsubscribeLite(SUBSCRIBED.get(1));
        for (int number = LENGTH; number < LENGTH + LATER; number++) {
            for (String name : ALL) {
                send(producer, topic, name, number);
            }
        }
        Task.waitUntil(() -> ledger.least(who) >= total + LATER, ledger.progress(who, total + LATER), 20);
        Thread.sleep(3_000);
        ledger.expectInOrder(PUSH, "one", LENGTH + LATER, !harsh);
        ledger.expectInOrder(PUSH, "two", LENGTH, !harsh);
        require(ledger.numbers(PUSH, "three").isEmpty(), "messages of a lite topic came that was never subscribed to");
    }

    /** A client that just started doesn't know its quota yet and refuses by itself; the server may still bury the one before it. */
    private static void subscribe(LitePushConsumer consumer, String name) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(10));
        while (true) {
            try {
                consumer.subscribeLite(name);
                return;
            } catch (ClientException refusal) {
                require(!waiting.over(), "the subscription to `" + name + "` was refused for 10 s: " + Run.oneLine(refusal));
                say("the subscription to `" + name + "` was refused: " + Run.oneLine(refusal));
                Thread.sleep(500);
            }
        }
    }

    private static void send(Producer producer, String topic, String name, int number) throws InterruptedException {
        Surely.send(producer, Run.PROVIDER.newMessageBuilder().setTopic(topic).setLiteTopic(name).setBody(bytes(name + " " + number)).build());
    }

    /** Goes on after what is noted as sent. */
    private static void sendRest(Producer producer, String topic, Ledger ledger) throws InterruptedException {
        for (int number = 0; number < LENGTH; number++) {
            for (String name : ALL) {
                if (!ledger.numbers("sent", name).contains((long) number)) {
                    send(producer, topic, name, number);
                    ledger.add("sent", name + " " + number);
                    Thread.sleep(10);
                }
            }
        }
    }
}
