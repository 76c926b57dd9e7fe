package compat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Plays one scenario with the unmodified Java client: parse the arguments, prepare the process, play, give the verdict.
 *
 * <p>Read {@link Run} next (how scenarios talk to the runner), then {@link Deliveries}, then one file per family of scenarios.
 */
final class Main {
    private static final List<String> OPTIONS = List.of("--scenario", "--endpoint", "--tls", "--run");

    private Main() {
    }

    private static Map<String, Run.Scenario> scenarios() {
        Map<String, Run.Scenario> byName = new LinkedHashMap<>();
        byName.put("send_sync", Send::sync);
        byName.put("send_async", Send::async);
        byName.put("push_success", Push::success);
        byName.put("push_retry_dlq", Push::retryDlq);
        byName.put("push_retry_then_ok", Push::retryThenOk);
        byName.put("simple_receive_ack", Simple::receiveAck);
        byName.put("simple_expire_redeliver", Simple::expireRedeliver);
        byName.put("simple_change_invisible", Simple::changeInvisible);
        byName.put("simple_late_ack", Simple::lateAck);
        byName.put("tag_filter", Filter::tags);
        byName.put("group_shares", Push::groupShares);
        byName.put("groups_each", Push::groupsEach);
        byName.put("body_4m", Limits::body4m);
        byName.put("body_too_big", Limits::bodyTooBig);
        byName.put("body_empty", Limits::bodyEmpty);
        byName.put("illegal_names", Limits::illegalNames);
        byName.put("unknown_topic", Limits::unknownTopic);
        byName.put("server_killed", Faults::serverKilled);
        byName.put("consumer_killed", Faults::consumerKilled);
        byName.put("consumer_killed_heir", Faults::consumerKilledHeir);
        byName.put("producer_restart_handle", Faults::producerRestartHandle);
        addMessageKinds(byName);
        return byName;
    }

    private static void addMessageKinds(Map<String, Run.Scenario> byName) {
        byName.put("fifo-order", Fifo::order);
        byName.put("fifo-order-heir", Fifo::orderHeir);
        byName.put("fifo-retry", Fifo::retry);
        byName.put("fifo-dead", Fifo::dead);
        byName.put("delay", Delay::delay);
        byName.put("delay-heir", Delay::delayHeir);
        byName.put("delay-recall", Delay::recall);
        byName.put("txn-commit", Transactions::commit);
        byName.put("txn-rollback", Transactions::rollback);
        byName.put("txn-check", Transactions::check);
        byName.put("txn-check-heir", Transactions::checkHeir);
        byName.put("txn-check-other", Transactions::checkOther);
        byName.put("txn-check-other-heir", Transactions::checkOtherHeir);
        byName.put("sql-filter", Sql::filter);
        byName.put("sql-filter-heir", Sql::filterHeir);
        byName.put("priority", Priority::priority);
        byName.put("priority-heir", Priority::priorityHeir);
        byName.put("lite", Lite::lite);
        byName.put("lite-heir", Lite::liteHeir);
        byName.put("dedup", Identity::dedup);
        byName.put("trace-context", Identity::traceContext);
        byName.put("namespace", Identity::namespace);
        byName.put("nack-dlq-redrive", Letters::nackDlqRedrive);
    }

    public static void main(String[] arguments) throws IOException {
        Map<String, String> given = given(arguments);
        sendLogsToAFile(given);
        Run run = new Run(given.get("--scenario"), given.get("--endpoint"), given.get("--tls").equals("on"), given.get("--run"));
        run.play(scenarios().get(given.get("--scenario")));
    }

    private static Map<String, String> given(String[] arguments) {
        Map<String, String> given = new LinkedHashMap<>();
        for (int at = 0; at + 1 < arguments.length; at += 2) {
            given.put(arguments[at], arguments[at + 1]);
        }
        boolean complete = arguments.length == 2 * OPTIONS.size() && given.keySet().containsAll(OPTIONS);
        if (!complete || !List.of("on", "off").contains(given.get("--tls"))) {
            System.err.println("usage: run --scenario NAME --endpoint HOST:PORT --tls on|off --run ID");
            System.exit(2);
        }
        return given;
    }

    /** The client's own log would go below the home directory. The property is read when the first logger is made. */
    private static void sendLogsToAFile(Map<String, String> given) throws IOException {
        String base = System.getenv("GANTRY_LOG_DIR");
        Path folder = base == null || base.isEmpty() ? Path.of(System.getProperty("java.io.tmpdir"), "gantry-compat-logs") : Path.of(base);
        folder = folder.resolve("java-" + given.get("--scenario") + "-" + given.get("--run") + "-" + ProcessHandle.current().pid());
        Files.createDirectories(folder);
        System.setProperty("rocketmq.log.root", folder.toString());
    }
}
