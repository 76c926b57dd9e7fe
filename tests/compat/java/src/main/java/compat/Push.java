package compat;

import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.numbered;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;

/** Push consumers: delivery, retry, dead letters, sharing. */
final class Push {
    /** A push consumer asks for its assignment one second after its start; before that it receives nothing. */
    private static final int WARM_UP_MS = 4_000;

    private Push() {
    }

    static void success(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        Inbox inbox = new Inbox();
        run.step("starting the push consumer");
        run.pushConsumer(group, topic, inbox);
        List<String> bodies = numbered("push", 50);
        run.step("sending 50 messages");
        sendAll(run.producer(topic), topic, bodies);
        run.step("waiting for 50 deliveries, then for 10 s of quiet");
        inbox.waitFor(50, 30);
        inbox.waitQuiet(10);
        expectOnce(inbox.bodies(), bodies);
        run.expectNoLag(group, topic);
    }

    static void retryDlq(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group("group", "max_attempts=3", "retry=1s,1s");
        String reader = run.group("reader");
        Inbox inbox = new Inbox(delivery -> false);
        run.step("starting a push consumer that always fails");
        run.pushConsumer(group, topic, inbox);
        List<String> bodies = numbered("hopeless", 3);
        sendAll(run.producer(topic), topic, bodies);
        run.step("waiting for three deliveries of each message");
        inbox.waitFor(9, 30);
        inbox.waitQuiet(5);
        bodies.forEach(body -> expectAttempts(inbox, body, List.of(1, 2, 3)));
        run.step("reading the dead letter queue");
        SimpleConsumer consumer = run.simpleConsumer(reader, "%DLQ%" + group);
        expectOnce(texts(collect(consumer, 3, 20)), bodies);
        expectSilence(consumer, 4);
        run.expectNoLag(group, topic);
    }

    static void retryThenOk(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group("group", "max_attempts=3", "retry=1s,1s");
        Inbox inbox = new Inbox(delivery -> delivery.attempt() > 1);
        run.step("starting a push consumer that fails once");
        run.pushConsumer(group, topic, inbox);
        sendAll(run.producer(topic), topic, List.of("second chance"));
        run.step("waiting for two deliveries");
        inbox.waitFor(2, 30);
        inbox.waitQuiet(5);
        expectAttempts(inbox, "second chance", List.of(1, 2));
        run.expectNoLag(group, topic);
    }

    private static void expectAttempts(Inbox inbox, String body, List<Integer> expected) {
        List<Inbox.Delivery> came = inbox.deliveries().stream().filter(delivery -> delivery.body().equals(body)).toList();
        List<String> gaps = new ArrayList<>();
        for (int index = 1; index < came.size(); index++) {
            gaps.add(Clock.written(came.get(index).at() - came.get(index - 1).at()));
        }
        say("`" + body + "` came " + came.size() + " times, apart by " + String.join(", ", gaps));
        List<Integer> attempts = came.stream().map(Inbox.Delivery::attempt).toList();
        require(attempts.equals(expected), "`" + body + "` came with attempts " + attempts + " instead of " + expected);
    }

    static void groupShares(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group();
        List<Inbox> inboxes = List.of(new Inbox(), new Inbox());
        run.step("starting two push consumers of one group");
        for (Inbox inbox : inboxes) {
            run.pushConsumer(group, topic, inbox);
        }
        Thread.sleep(WARM_UP_MS);
        List<String> bodies = numbered("shared", 100);
        run.step("sending 100 messages");
        sendAll(run.producer(topic), topic, bodies);
        run.step("waiting for all of them");
        for (Inbox inbox : inboxes) {
            inbox.waitQuiet(6);
        }
        List<String> all = inboxes.stream().flatMap(inbox -> inbox.bodies().stream()).toList();
        List<Integer> shares = inboxes.stream().map(inbox -> inbox.bodies().size()).toList();
        say("the consumers got " + shares + " messages");
        expectOnce(all, bodies);
        require(!shares.contains(0), "one of the consumers got nothing: " + shares);
        run.expectNoLag(group, topic);
    }

    static void groupsEach(Run run) throws Exception {
        String topic = run.topic();
        List<String> groups = List.of(run.group("one"), run.group("two"));
        List<Inbox> inboxes = List.of(new Inbox(), new Inbox());
        run.step("starting one push consumer in each of two groups");
        for (int index = 0; index < groups.size(); index++) {
            run.pushConsumer(groups.get(index), topic, inboxes.get(index));
        }
        List<String> bodies = numbered("for each", 20);
        sendAll(run.producer(topic), topic, bodies);
        run.step("waiting for 20 deliveries in both groups");
        for (int index = 0; index < groups.size(); index++) {
            inboxes.get(index).waitFor(20, 30);
            inboxes.get(index).waitQuiet(4);
            expectOnce(inboxes.get(index).bodies(), bodies);
            run.expectNoLag(groups.get(index), topic);
        }
    }
}
