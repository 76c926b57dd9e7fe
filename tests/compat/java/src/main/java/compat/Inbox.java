package compat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Predicate;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.message.MessageView;

/** A listener that remembers every delivery, so that scenarios can compare what came instead of sleeping. */
final class Inbox implements MessageListener {
    /** How often waiting looks at the deliveries. */
    private static final int LOOK_MS = 50;
    /** No scenario's deliveries take longer; without an end, messages that come forever would say nothing about why. */
    private static final int RESTLESS_S = 60;

    private final Predicate<Delivery> decide;
    private final List<Delivery> deliveries = new ArrayList<>();

    /** One call of the listener. */
    record Delivery(String body, int attempt, double at) {
    }

    /** An inbox that consumes everything. */
    Inbox() {
        this(delivery -> true);
    }

    /** {@code decide} tells whether a delivery counts as consumed. */
    Inbox(Predicate<Delivery> decide) {
        this.decide = decide;
    }

    @Override
    public ConsumeResult consume(MessageView message) {
        Delivery delivery = new Delivery(Deliveries.text(message), message.getDeliveryAttempt(), Clock.now());
        synchronized (deliveries) {
            deliveries.add(delivery);
        }
        return decide.test(delivery) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE;
    }

    List<Delivery> deliveries() {
        synchronized (deliveries) {
            return List.copyOf(deliveries);
        }
    }

    List<String> bodies() {
        return deliveries().stream().map(Delivery::body).toList();
    }

    private int count() {
        synchronized (deliveries) {
            return deliveries.size();
        }
    }

    void waitFor(int wanted, int seconds) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (count() < wanted) {
            Run.require(!waiting.over(), count() + " of " + wanted + " deliveries within " + seconds + " s");
            Thread.sleep(LOOK_MS);
        }
    }

    /** Returns when nothing has come for so long. */
    void waitQuiet(int seconds) throws InterruptedException {
        int seen = count();
        Clock restless = new Clock(Duration.ofSeconds(RESTLESS_S));
        Clock quiet = new Clock(Duration.ofSeconds(seconds));
        while (!quiet.over()) {
            Thread.sleep(LOOK_MS);
            Run.require(!restless.over(), count() + " deliveries within " + RESTLESS_S + " s and no end");
            if (count() != seen) {
                seen = count();
                quiet = new Clock(Duration.ofSeconds(seconds));
            }
        }
    }
}
