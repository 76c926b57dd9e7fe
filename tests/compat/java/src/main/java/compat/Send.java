package compat;

import static compat.Deliveries.body;
import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.message;
import static compat.Deliveries.numbered;
import static compat.Deliveries.text;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.java.message.MessageViewImpl;

/** Producers: what is sent arrives, once and unchanged. */
final class Send {
    /** Longer than a redelivery caused by a lost answer would need to show up, short enough for a scenario. */
    private static final int QUIET_S = 4;

    private Send() {
    }

    private record Sent(String body, String tag, List<String> keys, Map<String, String> properties) {
        static Sent number(int index) {
            return new Sent("body " + index + " – ünïcode", "tag-" + index % 3, List.of("key-" + index, "order-" + index),
                Map.of("plain", "value " + index, "number", Integer.toString(index), "non-ascii", "größe 测试 " + index));
        }
    }

    static void sync(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        run.step("sending 20 messages");
        Producer producer = run.producer(topic);
        Map<String, Sent> sent = new HashMap<>();
        for (int index = 0; index < 20; index++) {
            Sent out = Sent.number(index);
            var builder = Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(out.body)).setTag(out.tag)
                .setKeys(out.keys.toArray(String[]::new));
            out.properties.forEach(builder::addProperty);
            String id = producer.send(builder.build()).getMessageId().toString();
            require(!id.isEmpty(), "receipt " + index + " has no message id");
            sent.put(id, out);
        }
        require(sent.size() == 20, "two receipts have the same message id");

        run.step("receiving 20 messages");
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        for (MessageView got : collect(consumer, 20, 30)) {
            Sent out = sent.remove(got.getMessageId().toString());
            require(out != null, "`" + text(got) + "` has message id `" + got.getMessageId() + "`, which no receipt had or which came before");
            expectEqual(topic, out, got);
        }
        run.step("expecting nothing else");
        expectSilence(consumer, QUIET_S);
    }

    private static void expectEqual(String topic, Sent out, MessageView got) {
        expectSame("topic", topic, got.getTopic());
        expectSame("tag", out.tag, got.getTag().orElse(null));
        expectSame("keys", out.keys, new ArrayList<>(got.getKeys()));
        expectSame("properties", out.properties, got.getProperties());
        require(Arrays.equals(bytes(out.body), body(got)), "body was sent as `" + out.body + "` and received as `" + text(got) + "`");
        require(!((MessageViewImpl) got).isCorrupted(), "the client found the body's digest wrong");
        expectSame("attempt", 1, got.getDeliveryAttempt());
        require(got.getBornTimestamp() > 0 && !got.getBornHost().isEmpty(), "born timestamp or born host is missing");
    }

    private static void expectSame(String what, Object sent, Object received) {
        require(sent.equals(received), what + " was sent as `" + sent + "` and received as `" + received + "`");
    }

    static void async(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Producer producer = run.producer(topic);
        List<String> bodies = numbered("async", 100);
        run.step("sending 100 messages at the same time");
        List<CompletableFuture<SendReceipt>> sends = bodies.stream().map(body -> producer.sendAsync(message(topic, body))).toList();
        Set<String> ids = new HashSet<>();
        for (CompletableFuture<SendReceipt> send : sends) {
            ids.add(send.get(30, TimeUnit.SECONDS).getMessageId().toString());
        }
        require(ids.size() == 100 && !ids.contains(""), "100 sends gave " + ids.size() + " different message ids");
        say("all sends acknowledged");
        run.step("receiving 100 messages");
        SimpleConsumer consumer = run.simpleConsumer(group, topic);
        expectOnce(texts(collect(consumer, 100, 40)), bodies);
        expectSilence(consumer, QUIET_S);
    }
}
