package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.numbered;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.texts;
import static compat.Run.require;

import java.util.List;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** What makes a message, a topic or a group the same one: message ids, namespaces. And what belongs to a message: its trace context. */
final class Identity {
    private Identity() {
    }

    /** Loses the answer of the first send on its way: the client then sends the same message with the same id again, by itself. */
    static void dedup(Run run) throws Exception {
        LossyRoad road = new LossyRoad(run.endpoint());
        for (String kind : List.of("NORMAL", "FIFO")) {
            String topic = run.topicNamed("topic-" + kind, "type=" + kind);
            String group = run.group("group-" + kind, Fifo.RETRY_QUICKLY);
            Producer producer = run.producer(run.configuration().setEndpoints(road.endpoint()), topic);
            run.step("sending with a lost answer to a topic of type " + kind);
            String body = "once ".repeat(500);
            var message = Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(body));
            if (kind.equals("FIFO")) {
                message.setMessageGroup("lane");
            }
            road.loseNextAnswer();
            String id = producer.send(message.build()).getMessageId().toString();
            road.expectLost(body.length());
            run.step("expecting it once");
            SimpleConsumer consumer = run.simpleConsumer(group, topic);
            MessageView got = collect(consumer, 1, 15).get(0);
            expectOnce(texts(List.of(got)), List.of(body));
            require(got.getMessageId().toString().equals(id), "the receipt says `" + id + "`, and it came as `" + got.getMessageId() + "`");
            expectSilence(consumer, 4);
            run.expectNoLag(group, topic);
        }
    }

    static void traceContext(Run run) throws Run.Unsupported {
        throw new Run.Unsupported("the client neither sets a message's trace context nor shows it");
    }

    static void namespace(Run run) throws Exception {
        List<String> spaces = List.of("left-" + run.id(), "right-" + run.id());
        String topic = run.name("topic");
        String group = run.name("group");
        for (String space : spaces) {
            run.ask("topic " + topic + " type=NORMAL namespace=" + space);
            run.ask("group " + group + " start=earliest namespace=" + space);
        }
        run.step("sending to the same topic name in two namespaces");
        for (String space : spaces) {
            sendAll(run.producer(run.configuration().setNamespace(space), topic), topic, numbered(space, 10));
        }
        run.step("receiving with the same group name in two namespaces");
        for (String space : spaces) {
            SimpleConsumer consumer = run.simpleConsumer(run.configuration().setNamespace(space), group, topic, Run.tags("*"));
            expectOnce(texts(collect(consumer, 10, 15)), numbered(space, 10));
            expectSilence(consumer, 3);
        }
        for (String space : spaces) {
            run.expectNoLag(group, topic, space);
        }
    }
}
