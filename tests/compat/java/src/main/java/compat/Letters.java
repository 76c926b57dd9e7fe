package compat;

import static compat.Deliveries.collect;
import static compat.Deliveries.expectOnce;
import static compat.Deliveries.expectSilence;
import static compat.Deliveries.sendAll;
import static compat.Deliveries.texts;
import static compat.Run.require;
import static compat.Run.say;

import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;

/** Dead letters: they wait, and come again when an operator redrives them. */
final class Letters {
    private Letters() {
    }

    static void nackDlqRedrive(Run run) throws Exception {
        String topic = run.topic();
        String group = run.group("group", "max_attempts=2", Fifo.RETRY_QUICKLY);
        String reader = run.group("reader");
        AtomicBoolean healed = new AtomicBoolean();
        Inbox inbox = new Inbox(delivery -> healed.get());
        run.step("starting a push consumer that fails");
        run.pushConsumer(group, topic, inbox);
        sendAll(run.producer(topic), topic, List.of("sick"));
        inbox.waitFor(2, 30);
        inbox.waitQuiet(4);
        List<Integer> attempts = inbox.deliveries().stream().map(Inbox.Delivery::attempt).toList();
        require(attempts.equals(List.of(1, 2)), "the message came with attempts " + attempts + " instead of 1 and 2");
        run.step("reading the dead letter queue");
        SimpleConsumer letters = run.simpleConsumer(reader, "%DLQ%" + group);
        expectOnce(texts(collect(letters, 1, 15)), List.of("sick"));
        run.step("redriving");
        healed.set(true);
        run.ask("redrive " + group);
        inbox.waitFor(3, 20);
        inbox.waitQuiet(4);
        expectOnce(inbox.bodies().subList(2, inbox.bodies().size()), List.of("sick"));
        say("after the redrive it came with attempt " + inbox.deliveries().get(2).attempt());
        expectSilence(letters, 3);
        run.expectNoLag(group, topic);
    }
}
