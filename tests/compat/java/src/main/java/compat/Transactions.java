package compat;

import static compat.Deliveries.LONG;
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
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;
import org.apache.rocketmq.client.java.impl.producer.SendReceiptImpl;

/** Transactional messages: seen when committed, once; never when rolled back; and the producer is asked when it forgot. */
final class Transactions {
    /** The server first asks 6 s after the send. */
    private static final int ASKED_S = 12;
    /** After a kill the client first notices, then opens its stream again. */
    private static final int RECOVERY_S = 20;
    private static final List<String> BODIES = numbered("open", 3);

    private Transactions() {
    }

    /** Remembers what it was asked and always says the same. */
    private static final class Checker implements TransactionChecker {
        private final TransactionResolution answer;
        private final List<MessageView> asked = new ArrayList<>();

        Checker(TransactionResolution answer) {
            this.answer = answer;
        }

        @Override
        public TransactionResolution check(MessageView message) {
            say("the checker is asked about `" + text(message) + "`");
            synchronized (asked) {
                asked.add(message);
            }
            return answer;
        }

        List<MessageView> asked() {
            synchronized (asked) {
                return List.copyOf(asked);
            }
        }

        Set<String> askedAbout() {
            return new TreeSet<>(texts(asked()));
        }
    }

    private static Checker committing() {
        return new Checker(TransactionResolution.COMMIT);
    }

    private static Message half(String topic, String body) {
        return Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(body)).setTag("half").setKeys("key of " + body)
            .addProperty("what", "a half message").build();
    }

    private static void expectAsSent(MessageView got, String topic) {
        require(got.getTopic().equals(topic), "the topic was `" + topic + "` and came as `" + got.getTopic() + "`");
        require(got.getTag().equals(Optional.of("half")), "the tag came as " + got.getTag());
        require(List.copyOf(got.getKeys()).equals(List.of("key of " + text(got))), "the keys of `" + text(got) + "` came as " + got.getKeys());
        require(got.getProperties().equals(Map.of("what", "a half message")), "the properties came as " + got.getProperties());
    }

    /** A transaction with one message. */
    private record Open(Transaction transaction, String messageId) {
    }

    private static Open sendHalf(Producer producer, String topic, String body) throws Exception {
        Transaction transaction = producer.beginTransaction();
        SendReceipt receipt = producer.send(half(topic, body), transaction);
        require(!((SendReceiptImpl) receipt).getTransactionId().isEmpty(), "the receipt of `" + body + "` has no transaction id");
        return new Open(transaction, receipt.getMessageId().toString());
    }

    static void commit(Run run) throws Exception {
        String topic = run.topic("type=TRANSACTION");
        String group = run.group();
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        // If the checker is asked before the commit, it must not be what commits.
        Open open = sendHalf(run.producer(topic, new Checker(TransactionResolution.UNKNOWN)), topic, "committed");
        run.step("expecting nothing before the commit");
        expectSilence(consumer, 2);
        run.step("committing");
        open.transaction.commit();
        MessageView got = collect(consumer, 1, 10).get(0);
        require(text(got).equals("committed"), "`" + text(got) + "` came");
        expectAsSent(got, topic);
        require(got.getMessageId().toString().equals(open.messageId), "it was sent as `" + open.messageId + "` and came as `" + got.getMessageId() + "`");
        run.step("expecting nothing else, also when a check would be due");
        expectSilence(consumer, 9);
        run.expectNoLag(group, topic);
    }

    static void rollback(Run run) throws Exception {
        String topic = run.topic("type=TRANSACTION");
        String group = run.group();
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        Checker checker = committing();
        Open open = sendHalf(run.producer(topic, checker), topic, "rolled back");
        run.step("rolling back");
        open.transaction.rollback();
        run.step("expecting nothing, also when a check would be due");
        expectSilence(consumer, 12);
        require(checker.asked().isEmpty(), "the checker was asked about a transaction that was rolled back");
        run.expectNoLag(group, topic);
    }

    // ---- forgotten transactions

    static void check(Run run) throws Exception {
        String topic = run.topic("type=TRANSACTION");
        String group = run.group();
        Checker checker = committing();
        Producer producer = run.producer(topic, checker);
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        for (String body : BODIES) {
            sendHalf(producer, topic, body);
        }
        boolean restarted = run.middle("txn-check-heir");
        expectAsked(run, checker, topic, restarted ? ASKED_S + RECOVERY_S : ASKED_S);
        expectCommitted(run, consumer, group, topic);
    }

    static void checkHeir(Run run) throws Exception {
        inherit(run, "txn-check");
    }

    static void checkOther(Run run) throws Exception {
        String topic = run.topic("type=TRANSACTION");
        run.group();
        Producer producer = run.producer(topic, new Checker(TransactionResolution.UNKNOWN));
        for (String body : BODIES) {
            sendHalf(producer, topic, body);
        }
        run.step("asking to be killed");
        run.ask("kill-me txn-check-other-heir");
        throw new Run.Failed("the runner answered `kill-me` instead of killing this program");
    }

    static void checkOtherHeir(Run run) throws Exception {
        inherit(run, "txn-check-other");
    }

    /** The sender is gone. Its topic has another producer, which is asked. */
    private static void inherit(Run run, String scenario) throws Exception {
        String topic = run.nameIn(scenario, "topic");
        String group = run.nameIn(scenario, "group");
        Checker checker = committing();
        run.producer(topic, checker);
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        expectAsked(run, checker, topic, ASKED_S);
        expectCommitted(run, consumer, group, topic);
    }

    private static void expectAsked(Run run, Checker checker, String topic, int seconds) throws InterruptedException {
        run.step("waiting for the checker to be asked");
        double began = Clock.now();
        Task.waitUntil(() -> checker.askedAbout().containsAll(BODIES), () -> "asked about " + checker.askedAbout(), seconds);
        say("asked after " + Clock.written(Clock.now() - began));
        checker.asked().forEach(one -> expectAsSent(one, topic));
    }

    private static void expectCommitted(Run run, SimpleConsumer consumer, String group, String topic) throws Exception {
        run.step("receiving what the checker committed");
        List<MessageView> got = new ArrayList<>();
        Clock waiting = new Clock(Duration.ofSeconds(15));
        while (got.size() < BODIES.size()) {
            require(!waiting.over(), "within 15 s came only " + texts(got));
            for (MessageView message : Surely.receive(consumer, 16, LONG)) {
                got.add(message);
                Surely.ack(consumer, message);
            }
        }
        expectOnce(texts(got), BODIES);
        got.forEach(one -> expectAsSent(one, topic));
        expectSilence(consumer, 4);
        run.expectNoLag(group, topic);
    }
}
