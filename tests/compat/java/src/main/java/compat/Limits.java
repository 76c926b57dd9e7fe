package compat;

import static compat.Deliveries.body;
import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Limits and refusals: sizes, empty bodies, illegal names. Afterwards the server still serves. */
final class Limits {
    private static final int LARGEST_BODY = 4 * 1024 * 1024;

    private static final int ILLEGAL_TOPIC = 40002;
    private static final int ILLEGAL_CONSUMER_GROUP = 40003;
    private static final int ILLEGAL_MESSAGE_TAG = 40004;
    private static final int ILLEGAL_MESSAGE_KEY = 40005;
    private static final int ILLEGAL_MESSAGE_PROPERTY_KEY = 40007;
    private static final int FORBIDDEN = 40300;
    private static final int TOPIC_NOT_FOUND = 40402;
    private static final int MESSAGE_BODY_TOO_LARGE = 41301;
    private static final int MESSAGE_BODY_EMPTY = 41302;

    private Limits() {
    }

    /** The call must be refused, by the client's own checks or by the server with one of the codes. */
    static void expectRefused(String what, List<Integer> codes, Run.Work call) {
        Exception refusal = refusal(call);
        require(refusal != null, what + ": accepted");
        OptionalInt code = Run.code(refusal);
        if (code.isPresent()) {
            require(codes.contains(code.getAsInt()),
                what + ": refused with " + code.getAsInt() + " instead of " + codes + ": " + Run.oneLine(refusal));
            say(what + ": refused by the server: " + Run.oneLine(refusal));
            return;
        }
        if (refusedAtTelemetry(refusal)) {
            say(what + ": refused by the server when the client started: " + Run.oneLine(refusal));
            return;
        }
        require(refusedByTheClient(refusal), what + ": neither refused nor accepted: " + Run.oneLine(refusal));
        say(what + ": refused by the client itself: " + Run.oneLine(refusal));
    }

    static Exception refusal(Run.Work call) {
        try {
            call.run();
            return null;
        } catch (Exception refusal) {
            return refusal;
        }
    }

    /** The protocol refuses settings with this gRPC status. */
    private static boolean refusedAtTelemetry(Exception refusal) {
        return String.valueOf(Run.root(refusal).getMessage()).startsWith("INVALID_ARGUMENT");
    }

    /** The client refuses illegal arguments with this exception, and too large bodies with an exception meant for broken input. */
    private static boolean refusedByTheClient(Exception refusal) {
        Throwable root = Run.root(refusal);
        return root instanceof IllegalArgumentException
            || root instanceof IOException && String.valueOf(root.getMessage()).contains("body size exceeds the threshold");
    }

    /** The server still takes and delivers a message, and delivers nothing of what was refused. */
    private static void expectWell(Run run, Producer producer, String topic, String group) throws Exception {
        run.step("checking that the server is well");
        sendAll(producer, topic, List.of("still well"));
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        expectOnce(texts(collect(consumer, 1, 15)), List.of("still well"));
        expectSilence(consumer, 3);
    }

    /** A body that differs everywhere, so that a lost or swapped piece shows. */
    private static byte[] pattern(int size) {
        ByteBuffer body = ByteBuffer.allocate(size);
        for (int at = 0; at + Integer.BYTES <= size; at += Integer.BYTES) {
            body.putInt(at, at);
        }
        return body.array();
    }

    static void body4m(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        byte[] largest = pattern(LARGEST_BODY);
        run.step("sending 4 MiB");
        Producer producer = run.producer(topic);
        producer.send(Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(largest).build());
        run.step("receiving 4 MiB");
        MessageView got = collect(run.simpleConsumer(group, topic), 1, 20).get(0);
        require(Arrays.equals(largest, body(got)), "sent " + largest.length + " bytes and received " + body(got).length + " different ones");
    }

    static void bodyTooBig(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Producer producer = run.producer(topic);
        run.step("sending 4 MiB + 1 byte");
        expectRefused("body of 4 MiB + 1", List.of(MESSAGE_BODY_TOO_LARGE),
            () -> producer.send(Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(pattern(LARGEST_BODY + 1)).build()));
        expectWell(run, producer, topic, group);
    }

    static void bodyEmpty(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Producer producer = run.producer(topic);
        run.step("sending an empty body");
        expectRefused("empty body", List.of(MESSAGE_BODY_EMPTY),
            () -> producer.send(Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(new byte[0]).build()));
        expectWell(run, producer, topic, group);
    }

    /** Sets what is illegal. The builder itself may refuse it. */
    private interface Illegal {
        MessageBuilder in(MessageBuilder builder);
    }

    static void illegalNames(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Producer producer = run.producer(topic);
        run.step("sending with illegal names");
        refuseSend(producer, topic, "topic with a space", ILLEGAL_TOPIC, message -> message.setTopic("bad topic"));
        refuseSend(producer, topic, "topic of 128 characters", ILLEGAL_TOPIC, message -> message.setTopic("t".repeat(128)));
        refuseSend(producer, topic, "system topic", ILLEGAL_TOPIC, message -> message.setTopic("TBW102"));
        refuseSend(producer, topic, "tag with a bar", ILLEGAL_MESSAGE_TAG, message -> message.setTag("a|b"));
        refuseSend(producer, topic, "blank tag", ILLEGAL_MESSAGE_TAG, message -> message.setTag("  "));
        refuseSend(producer, topic, "blank key", ILLEGAL_MESSAGE_KEY, message -> message.setKeys("  "));
        refuseSend(producer, topic, "reserved property", ILLEGAL_MESSAGE_PROPERTY_KEY, message -> message.addProperty("TAGS", "x"));
        refuseSend(producer, topic, "property key with a control character", ILLEGAL_MESSAGE_PROPERTY_KEY,
            message -> message.addProperty("a\u0001b", "x"));

        run.step("receiving with illegal groups");
        refuseGroup(run, topic, "group with a space", "bad group");
        refuseGroup(run, topic, "group of 121 characters", "g".repeat(121));
        expectWell(run, producer, topic, group);
    }

    private static void refuseSend(Producer producer, String topic, String what, int code, Illegal illegal) {
        expectRefused(what, List.of(code), () -> {
            MessageBuilder message = Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes("never stored"));
            producer.send(illegal.in(message).build());
        });
    }

    private static void refuseGroup(Run run, String topic, String what, String group) {
        expectRefused(what, List.of(ILLEGAL_CONSUMER_GROUP),
            () -> run.simpleConsumerThatStartsOnce(group, topic, Run.tags("*")).receive(1, Duration.ofSeconds(10)));
    }

    static void unknownTopic(Run run) throws Exception {
        String topic = run.name("fresh");
        String group = run.name("group");
        run.step("sending to a topic nobody created");
        Producer producer = run.producer(topic);
        sendAll(producer, topic, List.of("first use"));
        run.step("receiving with a group nobody created");
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        expectOnce(texts(collect(consumer, 1, 20)), List.of("first use"));
        run.step("sending to a topic that must not be created");
        // Not found, illegal or forbidden: the name is well formed, but only the server makes such topics.
        expectRefused("topic `%illegal%`", List.of(TOPIC_NOT_FOUND, ILLEGAL_TOPIC, FORBIDDEN),
            () -> producer.send(Deliveries.message("%illegal%", "x")));
        expectSilence(consumer, 3);
    }
}
