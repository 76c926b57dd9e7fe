package compat;

import java.io.BufferedReader;
import java.io.Closeable;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientConfigurationBuilder;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;

/**
 * One play of one scenario: its names, its runner, the clients it opened, its verdict.
 *
 * <p>A scenario that returns held; {@link Failed} and {@link Unsupported} say otherwise. Lines that start with {@code @gantry } are for the
 * runner; everything else a scenario prints is its log.
 */
final class Run {
    /** The runner gives a scenario 150 s; ending a little earlier lets the program say where it got stuck. */
    private static final Duration PATIENCE = Duration.ofSeconds(140);
    /** How long one long poll waits when nothing is there. Short, so that loops can look at the clock. */
    private static final Duration AWAIT = Duration.ofSeconds(3);
    /** Clients are shut down politely, but a verdict does not wait longer than this for them. */
    private static final Duration GOODBYE = Duration.ofSeconds(4);

    static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
    /** The client keeps the code of a status only in the text of its exceptions. */
    private static final Pattern RESPONSE_CODE = Pattern.compile("response-code=(\\d+)");

    private final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    private final Deque<Closeable> open = new ArrayDeque<>();
    private final String scenario;
    private final String endpoint;
    private final boolean tls;
    private final String id;
    private volatile String doing = "starting";

    /** What the registry maps names to. */
    interface Scenario {
        void play(Run run) throws Exception;
    }

    /** The scenario did not hold. An error, as in test libraries, so that scenarios may catch every exception of the client. */
    static final class Failed extends AssertionError {
        private static final long serialVersionUID = 1;

        Failed(String reason) {
            super(reason);
        }
    }

    /** This client cannot play the scenario. */
    static final class Unsupported extends Exception {
        private static final long serialVersionUID = 1;

        Unsupported(String reason) {
            super(reason);
        }
    }

    Run(String scenario, String endpoint, boolean tls, String id) {
        this.scenario = scenario;
        this.endpoint = endpoint;
        this.tls = tls;
        this.id = id;
    }

    // ---- the log and the runner

    /** A line of the program's own log. */
    static void say(String text) {
        OUT.println(text.replace('\n', ' '));
    }

    static void require(boolean condition, String reason) {
        if (!condition) {
            throw new Failed(reason);
        }
    }

    /** Names what happens now, for the log and for the verdict if it never ends. */
    void step(String text) {
        doing = text;
        say("step: " + text);
    }

    /** Asks the runner and returns the rest of its {@code done} line as words. */
    List<String> ask(String text) throws IOException {
        say("@gantry ask " + text);
        String answer = answers.readLine();
        require(answer != null, "the runner closed standard input instead of answering `ask " + text + "`");
        List<String> words = Arrays.asList(answer.trim().split("\\s+"));
        require(words.get(0).equals("done"), "`ask " + text + "` was answered `" + answer.trim() + "`");
        return words.subList(1, words.size());
    }

    String name(String suffix) {
        return nameIn(scenario, suffix);
    }

    /** The name another scenario of this run uses: an heir goes on with what its predecessor made. */
    String nameIn(String otherScenario, String suffix) {
        return otherScenario + "-" + id + "-" + suffix;
    }

    String id() {
        return id;
    }

    String endpoint() {
        return endpoint;
    }

    String topic(String... options) throws IOException {
        return topicNamed("topic", options);
    }

    String topicNamed(String suffix, String... options) throws IOException {
        String name = name(suffix);
        ask(("topic " + name + " " + String.join(" ", options)).trim());
        return name;
    }

    String group() throws IOException {
        return group("group");
    }

    String group(String suffix, String... options) throws IOException {
        String name = name(suffix);
        String more = options.length == 0 ? "" : String.join(" ", options) + " ";
        ask("group " + name + " " + more + "start=earliest");
        return name;
    }

    /** The runner keeps the text for the heirs of this program. */
    static void note(String text) {
        say("@gantry note " + text);
    }

    List<String> notes() throws IOException {
        return Arrays.stream(String.join(" ", ask("notes")).split(";")).filter(note -> !note.isBlank()).toList();
    }

    /** The middle of the scenario: the runner may kill the server or this program. Tells whether the server was restarted. */
    boolean middle(String heir) throws IOException {
        step("the middle");
        List<String> answer = ask("middle " + heir);
        require(answer.equals(List.of("calm")) || answer.equals(List.of("restarted")), "`ask middle` was answered " + answer);
        return answer.equals(List.of("restarted"));
    }

    void expectNoLag(String group, String topic) throws IOException, InterruptedException {
        expectNoLag(group, topic, "");
    }

    /** Acks travel apart from the deliveries a scenario sees, so the lag may take a moment to reach zero. */
    void expectNoLag(String group, String topic, String namespace) throws IOException, InterruptedException {
        Clock waiting = new Clock(Duration.ofSeconds(10));
        while (true) {
            List<String> lag = ask("lag " + group + " " + topic + (namespace.isEmpty() ? "" : " namespace=" + namespace));
            require(lag.size() == 3, "the runner answered `ask lag` with " + lag.size() + " numbers instead of 3");
            if (lag.stream().allMatch("0"::equals)) {
                return;
            }
            require(!waiting.over(), "lag of group `" + group + "` is ready=" + lag.get(0) + " in_flight=" + lag.get(1) + " waiting=" + lag.get(2)
                + " instead of 0");
            Thread.sleep(500);
        }
    }

    // ---- clients

    ClientConfigurationBuilder configuration() {
        return ClientConfiguration.newBuilder().setEndpoints(endpoint).enableSsl(tls);
    }

    Producer producer(String topic) throws Exception {
        return producer(configuration(), topic);
    }

    Producer producer(ClientConfigurationBuilder with, String topic) throws Exception {
        return opened(PROVIDER.newProducerBuilder().setClientConfiguration(with.build()).setTopics(topic).build());
    }

    Producer producer(String topic, TransactionChecker checker) throws Exception {
        return opened(PROVIDER.newProducerBuilder().setClientConfiguration(configuration().build()).setTopics(topic)
            .setTransactionChecker(checker).build());
    }

    SimpleConsumer simpleConsumer(String group, String topic) throws Exception {
        return simpleConsumer(group, topic, "*");
    }

    SimpleConsumer simpleConsumer(String group, String topic, String expression) throws Exception {
        return simpleConsumer(configuration(), group, topic, tags(expression));
    }

    /**
     * A consumer whose start may be refused. By default the client tries three times, and from the second time on it writes to the stream
     * that the refusal has ended and reports only that.
     */
    SimpleConsumer simpleConsumerThatStartsOnce(String group, String topic, FilterExpression expression) throws Exception {
        return simpleConsumer(configuration().setMaxStartupAttempts(1), group, topic, expression);
    }

    SimpleConsumer simpleConsumer(ClientConfigurationBuilder with, String group, String topic, FilterExpression expression) throws Exception {
        return opened(PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(with.build()).setConsumerGroup(group)
            .setAwaitDuration(AWAIT).setSubscriptionExpressions(Map.of(topic, expression)).build());
    }

    /** On a FIFO topic the client consumes message groups side by side; without the accelerator they wait for each other in the client. */
    PushConsumer pushConsumer(String group, String topic, MessageListener listener) throws Exception {
        return opened(PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration().build()).setConsumerGroup(group)
            .setEnableFifoConsumeAccelerator(true).setSubscriptionExpressions(Map.of(topic, tags("*"))).setMessageListener(listener).build());
    }

    LitePushConsumer litePushConsumer(String group, String topic, MessageListener listener) throws Exception {
        return opened(PROVIDER.newLitePushConsumerBuilder().setClientConfiguration(configuration().build()).setConsumerGroup(group)
            .bindTopic(topic).setMessageListener(listener).build());
    }

    static FilterExpression tags(String expression) {
        return new FilterExpression(expression, FilterExpressionType.TAG);
    }

    private <T extends Closeable> T opened(T client) {
        open.push(client);
        return client;
    }

    // ---- errors

    /** The code of the status the server answered with, if it did. */
    static OptionalInt code(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            Matcher matcher = RESPONSE_CODE.matcher(String.valueOf(cause.getMessage()));
            if (matcher.find()) {
                return OptionalInt.of(Integer.parseInt(matcher.group(1)));
            }
        }
        return OptionalInt.empty();
    }

    /** The innermost cause: the client wraps generously. */
    static Throwable root(Throwable error) {
        Throwable root = error;
        while (root.getCause() != null) {
            root = root.getCause();
        }
        return root;
    }

    static String oneLine(Throwable error) {
        Throwable root = root(error);
        String written = String.valueOf(root.getMessage()).trim().replaceAll("\\s+", " ");
        return root instanceof Failed ? written : root.getClass().getSimpleName() + ": " + written;
    }

    // ---- the verdict

    /** Plays the scenario and leaves the process with the verdict. */
    void play(Scenario played) {
        inBackground("watchdog", this::leaveWhenStuck);
        // What the client leaves behind must not decide about the server, but it must be seen.
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> say("note: thread `" + thread.getName() + "` died: " + oneLine(error)));
        String verdict = "pass";
        try {
            require(played != null, "this program has no scenario `" + scenario + "`");
            played.play(this);
        } catch (Unsupported reason) {
            verdict = "unsupported " + reason.getMessage();
        } catch (Exception | LinkageError | AssertionError error) {
            error.printStackTrace();
            verdict = "fail " + oneLine(error) + " (while: " + doing + ")";
        }
        goodbye();
        leave(verdict);
    }

    private void leaveWhenStuck() throws InterruptedException {
        Thread.sleep(PATIENCE.toMillis());
        leave("fail no end after " + PATIENCE.toSeconds() + " s while: " + doing);
    }

    /** Ends the process at once: the client's threads would keep it alive. */
    private static void leave(String verdict) {
        say("@gantry " + verdict);
        Runtime.getRuntime().halt(verdict.startsWith("fail") ? 1 : 0);
    }

    /** Shuts the clients down, newest first, without waiting too long: a push consumer first waits for its long polls. */
    private void goodbye() {
        Thread closing = inBackground("goodbye", () -> {
            while (!open.isEmpty()) {
                open.pop().close();
            }
        });
        try {
            closing.join(GOODBYE.toMillis());
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        if (closing.isAlive()) {
            say("note: the clients did not shut down within " + GOODBYE.toSeconds() + " s");
        }
    }

    /** Work that may fail with any exception; the default handler writes it into the log. */
    interface Work {
        void run() throws Exception;
    }

    static Thread inBackground(String name, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
        return thread;
    }
}
