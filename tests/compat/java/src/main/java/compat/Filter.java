package compat;

import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.numbered;
import static compat.Deliveries.texts;

import java.util.List;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Tag expressions: exactly the matching messages, and nothing left over. */
final class Filter {
    private Filter() {
    }

    private record Case(String group, String expression, List<String> tags) {
        List<String> expected() {
            return bodies(tags);
        }
    }

    private static List<String> bodies(List<String> tags) {
        return tags.stream().flatMap(tag -> numbered(tag, 10).stream()).toList();
    }

    static void tags(Run run) throws Exception {
        String topic = run.topic();
        List<String> tags = List.of("A", "B", "C", "AB");
        List<Case> cases = List.of(
            new Case(run.group("just-a"), "A", List.of("A")),
            new Case(run.group("a-or-b"), "A || B", List.of("A", "B")),
            new Case(run.group("all"), "*", tags));
        run.step("sending 40 messages with four tags");
        Producer producer = run.producer(topic);
        for (String tag : tags) {
            for (String body : bodies(List.of(tag))) {
                producer.send(Run.PROVIDER.newMessageBuilder().setTopic(topic).setTag(tag).setBody(bytes(body)).build());
            }
        }
        run.step("receiving with three expressions");
        for (Case one : cases) {
            SimpleConsumer consumer = run.simpleConsumer(one.group, topic, one.expression);
            expectOnce(texts(collect(consumer, one.expected().size(), 20)), one.expected());
            expectSilence(consumer, 4);
        }
        run.step("expecting no lag");
        for (Case one : cases) {
            run.expectNoLag(one.group, topic);
        }
    }
}
