package compat;

import java.time.Duration;

/** Time that only goes forward: now, and whether a span is over. */
final class Clock {
    private final double began = now();
    private final double seconds;

    Clock(Duration span) {
        this.seconds = span.toMillis() / 1000.0;
    }

    /** Seconds since some moment in the past. */
    static double now() {
        return System.nanoTime() / 1e9;
    }

    boolean over() {
        return now() - began >= seconds;
    }

    /** As a person reads it. */
    static String written(double seconds) {
        return String.format("%.2f s", seconds);
    }
}
