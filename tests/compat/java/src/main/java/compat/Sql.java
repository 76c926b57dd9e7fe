package compat;

import static compat.Deliveries.LONG;
import static compat.Deliveries.bytes;
import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.text;
import static compat.Run.require;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** SQL92 expressions: exactly the matching messages, and nothing left over. */
final class Sql {
    private static final int ILLEGAL_FILTER_EXPRESSION = 40010;
    private static final List<String> COLOURS = List.of("red", "green", "blue");
    private static final List<Row> ROWS = IntStream.range(0, 30).mapToObj(Row::new).toList();

    private static final List<Case> CASES = List.of(
        new Case("and-in", "a > 5 AND color IN ('red', 'blue') AND note IS NOT NULL",
            row -> row.a > 5 && !row.color().equals("green") && row.hasNote()),
        new Case("between", "a BETWEEN 10 AND 19", row -> row.a >= 10 && row.a <= 19),
        new Case("equal", "color = 'green'", row -> row.color().equals("green")),
        new Case("or-null", "(note IS NULL AND a <= 3) OR (a >= 25 AND color <> 'red')",
            row -> !row.hasNote() && row.a <= 3 || row.a >= 25 && !row.color().equals("red")));

    private Sql() {
    }

    /** The properties of a message. A missing note is what IS NULL asks for. */
    private record Row(int a) {
        String color() {
            return COLOURS.get(a % COLOURS.size());
        }

        boolean hasNote() {
            return a % 2 == 0;
        }

        void send(Producer producer, String topic) throws Exception {
            var message = Run.PROVIDER.newMessageBuilder().setTopic(topic).setBody(bytes(body())).addProperty("a", Integer.toString(a))
                .addProperty("color", color());
            if (hasNote()) {
                message.addProperty("note", "note " + a);
            }
            producer.send(message.build());
        }

        String body() {
            return "row " + a;
        }
    }

    /** A consumer group with an expression, and the same said in Java. */
    private record Case(String name, String expression, Predicate<Row> matches) {
        List<String> expected() {
            return ROWS.stream().filter(matches).map(Row::body).toList();
        }

        SimpleConsumer consumer(Run run, String topic) throws Exception {
            return run.simpleConsumer(run.configuration(), run.nameIn("sql-filter", name), topic, sql(expression));
        }
    }

    private static FilterExpression sql(String expression) {
        return new FilterExpression(expression, FilterExpressionType.SQL92);
    }

    static void filter(Run run) throws Exception {
        String topic = run.topic();
        for (Case one : CASES) {
            run.group(one.name);
        }
        run.step("sending rows");
        Producer producer = run.producer(topic);
        for (Row row : ROWS) {
            row.send(producer, topic);
        }
        Ledger ledger = new Ledger(run);
        Map<Case, SimpleConsumer> consumers = consumers(run, topic);
        run.step("receiving half of what matches");
        for (Case one : CASES) {
            for (MessageView message : collect(consumers.get(one), one.expected().size() / 2, 20)) {
                ledger.add(one.name, text(message));
            }
        }
        boolean restarted = run.middle("sql-filter-heir");
        receiveRest(run, topic, consumers, ledger, !restarted);
        run.step("subscribing with an expression that is none");
        String group = run.group("illegal");
        Limits.expectRefused("illegal expression", List.of(ILLEGAL_FILTER_EXPRESSION),
            () -> run.simpleConsumerThatStartsOnce(group, topic, sql("a > AND color")).receive(1, LONG));
    }

    static void filterHeir(Run run) throws Exception {
        String topic = run.nameIn("sql-filter", "topic");
        receiveRest(run, topic, consumers(run, topic), new Ledger(run), false);
    }

    private static Map<Case, SimpleConsumer> consumers(Run run, String topic) throws Exception {
        Map<Case, SimpleConsumer> consumers = new LinkedHashMap<>();
        for (Case one : CASES) {
            consumers.put(one, one.consumer(run, topic));
        }
        return consumers;
    }

    private static void receiveRest(Run run, String topic, Map<Case, SimpleConsumer> consumers, Ledger ledger, boolean once) throws Exception {
        run.step("receiving the rest");
        for (Case one : CASES) {
            receiveMatching(one, consumers.get(one), ledger);
            expectOnce(ledger.firsts(one.name), one.expected());
            require(!once || ledger.numbers(one.name, "row").size() == one.expected().size(), "rows for `" + one.expression + "` came more than once");
        }
        run.step("expecting nothing else");
        for (SimpleConsumer consumer : consumers.values()) {
            expectSilence(consumer, 2);
        }
        for (Case one : CASES) {
            run.expectNoLag(run.nameIn("sql-filter", one.name), topic);
        }
    }

    private static void receiveMatching(Case one, SimpleConsumer consumer, Ledger ledger) throws InterruptedException {
        int wanted = one.expected().size();
        Clock waiting = new Clock(Duration.ofSeconds(20));
        while (ledger.firsts(one.name).size() < wanted) {
            require(!waiting.over(), ledger.firsts(one.name).size() + " of " + wanted + " rows for `" + one.expression + "` within 20 s");
            for (MessageView message : Surely.receive(consumer, 16, LONG)) {
                ledger.add(one.name, text(message));
                Surely.ack(consumer, message);
            }
        }
    }
}
