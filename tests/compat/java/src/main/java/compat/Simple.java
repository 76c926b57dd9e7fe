package compat;

import static compat.Deliveries.LONG;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.numbered;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.text;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.time.Duration;
import java.util.List;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.java.message.MessageViewImpl;

/** Simple consumers: batches, invisible durations, receipt handles. */
final class Simple {
    /** The shortest invisible duration the protocol allows for a receive. */
    private static final int SHORT_S = 10;
    private static final Duration SHORT = Duration.ofSeconds(SHORT_S);
    /** A redelivery later than this after the end of the invisible duration is too late. */
    private static final int SLACK_S = 5;

    private Simple() {
    }

    /** A delivery and the times before and after the call that began its invisible duration. */
    private record Lease(MessageView message, double before, double after) {
    }

    static void receiveAck(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        List<String> bodies = numbered("batch", 20);
        sendAll(run.producer(topic), topic, bodies);
        run.step("receiving in batches of 8 and acknowledging");
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        expectOnce(texts(collect(consumer, 20, 20, SHORT, 8)), bodies);
        run.step("expecting nothing after the invisible duration");
        expectSilence(consumer, SHORT_S + 3);
        run.expectNoLag(group, topic);
    }

    private static Lease receiveOne(SimpleConsumer consumer, Duration invisible, int seconds) throws ClientException {
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (!waiting.over()) {
            double before = Clock.now();
            List<MessageView> got = consumer.receive(1, invisible);
            require(got.size() <= 1, "asked for one message and got " + got.size());
            if (!got.isEmpty()) {
                return new Lease(got.get(0), before, Clock.now());
            }
        }
        throw new Run.Failed("nothing came within " + seconds + " s");
    }

    /** The message comes again after 10 s, not earlier, and not later than the slack allows. */
    private static MessageView expectRedelivery(SimpleConsumer consumer, Lease lease, int attempt) throws ClientException {
        Lease again = receiveOne(consumer, LONG, SHORT_S + SLACK_S + 2);
        double longest = again.after - lease.before;
        double shortest = again.after - lease.after;
        say("came again " + Clock.written(longest) + " after the lease began");
        require(longest >= SHORT_S, "came again after " + Clock.written(longest) + ", before its " + SHORT_S + " s were over");
        require(shortest <= SHORT_S + SLACK_S, "came again only after " + Clock.written(shortest) + " instead of " + SHORT_S + " s");
        expectAttempt(again.message, attempt);
        return again.message;
    }

    private static void expectAttempt(MessageView message, int attempt) {
        require(message.getDeliveryAttempt() == attempt,
            "this delivery has attempt " + message.getDeliveryAttempt() + " instead of " + attempt);
    }

    static void expireRedeliver(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        sendAll(run.producer(topic), topic, List.of("expires"));
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("receiving without an acknowledgement");
        Lease first = receiveOne(consumer, SHORT, 20);
        expectAttempt(first.message, 1);
        run.step("waiting for the redelivery");
        consumer.ack(expectRedelivery(consumer, first, 2));
        run.expectNoLag(group, topic);
    }

    static void changeInvisible(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Producer producer = run.producer(topic);
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        sendAll(producer, topic, List.of("changed and left"));
        run.step("receiving with 30 s and changing to 10 s");
        MessageView first = receiveOne(consumer, LONG, 20).message;
        double before = Clock.now();
        consumer.changeInvisibleDuration(first, SHORT);
        Lease changed = new Lease(first, before, Clock.now());
        run.step("waiting for the redelivery");
        consumer.ack(expectRedelivery(consumer, changed, 2));

        sendAll(producer, topic, List.of("changed and acknowledged"));
        run.step("acknowledging with the changed handle");
        MessageView second = receiveOne(consumer, LONG, 20).message;
        require(text(second).equals("changed and acknowledged"), "`" + text(second) + "` came again after its acknowledgement");
        String original = ((MessageViewImpl) second).getReceiptHandle();
        consumer.changeInvisibleDuration(second, SHORT);
        boolean kept = ((MessageViewImpl) second).getReceiptHandle().equals(original);
        say("the change " + (kept ? "kept" : "replaced") + " the receipt handle");
        consumer.ack(second);
        expectSilence(consumer, SHORT_S + 3);
        run.expectNoLag(group, topic);
    }

    static void lateAck(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        sendAll(run.producer(topic), topic, List.of("late"));
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        run.step("letting the invisible duration end");
        Lease first = receiveOne(consumer, SHORT, 20);
        Lease newer = receiveOne(consumer, SHORT, SHORT_S + SLACK_S + 2);
        expectAttempt(newer.message, 2);
        run.step("acknowledging with the old handle");
        if (!refused(consumer, first.message)) {
            // Success is allowed when it changed nothing: then the message comes a third time.
            newer = receiveOne(consumer, LONG, SHORT_S + SLACK_S + 2);
            expectAttempt(newer.message, 3);
        }
        run.step("acknowledging the new delivery");
        consumer.ack(newer.message);
        expectSilence(consumer, SHORT_S + 3);
        run.expectNoLag(group, topic);
    }

    private static boolean refused(SimpleConsumer consumer, MessageView message) throws ClientException {
        try {
            consumer.ack(message);
        } catch (ClientException refusal) {
            if (Run.code(refusal).isEmpty()) {
                throw refusal;
            }
            say("the late acknowledgement was refused: " + Run.oneLine(refusal));
            return true;
        }
        say("the late acknowledgement was answered with success");
        return false;
    }
}
