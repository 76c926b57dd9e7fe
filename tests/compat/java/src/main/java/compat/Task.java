package compat;

import static compat.Run.require;

import java.time.Duration;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;

/** Work beside the scenario. What fails in it fails the scenario where it looks at the task. */
final class Task {
    private static final int LOOK_MS = 50;
    private static final int END_MS = 30_000;

    private final Thread thread;
    private volatile Throwable failure;
    private volatile boolean stopping;

    /** What a task does until it is done or {@link #over}. */
    interface Work {
        void run(Task task) throws Exception;
    }

    Task(String name, Work work) {
        thread = Run.inBackground(name, () -> {
            try {
                work.run(this);
            } catch (Exception | AssertionError thrown) {
                failure = thrown;
            }
        });
    }

    boolean over() {
        return stopping;
    }

    private void look() {
        if (failure != null) {
            throw new IllegalStateException("`" + thread.getName() + "` failed", failure);
        }
    }

    /** Waits for the task, which must end by itself. */
    void end() throws InterruptedException {
        thread.join(END_MS);
        look();
        require(!thread.isAlive(), "`" + thread.getName() + "` did not end within " + END_MS / 1000 + " s");
    }

    void stop() throws InterruptedException {
        stopping = true;
        end();
    }

    /** Looks often until it holds; fails when the time is over or one of the tasks failed. */
    static void waitUntil(BooleanSupplier holds, Supplier<String> what, int seconds, Task... tasks) throws InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(seconds));
        while (!holds.getAsBoolean()) {
            for (Task task : tasks) {
                task.look();
            }
            require(!waiting.over(), "not within " + seconds + " s: " + what.get());
            Thread.sleep(LOOK_MS);
        }
    }
}
