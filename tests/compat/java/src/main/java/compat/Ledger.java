package compat;

import static compat.Run.require;
import static compat.Run.say;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Supplier;
import java.util.stream.LongStream;

/**
 * What consumers finished, in order, kept by the runner as notes ({@code <consumer> <lane> <number>}) so that it outlives this program.
 *
 * <p>Take a message down just before it is acknowledged: then one that comes again after a kill is here twice, never missing.
 */
final class Ledger {
    private final List<Entry> entries = new ArrayList<>();

    /** One message that one consumer finished. A lane is a stream whose messages have an order: a message group, or a lite topic. */
    private record Entry(String who, String lane, long number) {
        String body() {
            return lane + " " + number;
        }
    }

    Ledger(Run run) throws IOException {
        for (String note : run.notes()) {
            String[] words = note.split(" ", 2);
            require(words.length == 2, "a note of the ledger is `" + note + "`");
            entries.add(entry(words[0], words[1]));
        }
    }

    private static Entry entry(String who, String body) {
        String[] words = body.split(" ");
        require(words.length == 2, "`" + body + "` is not a lane and a number");
        return new Entry(who, words[0], Long.parseLong(words[1]));
    }

    /** {@code body} is {@code <lane> <number>}. */
    synchronized void add(String who, String body) {
        Run.note(who + " " + body);
        entries.add(entry(who, body));
    }

    synchronized List<Long> numbers(String who, String lane) {
        return entries.stream().filter(entry -> entry.who.equals(who) && entry.lane.equals(lane)).map(Entry::number).toList();
    }

    /** What the consumer finished for the first time, in order. */
    synchronized List<String> firsts(String who) {
        return entries.stream().filter(entry -> entry.who.equals(who)).map(Entry::body).distinct().toList();
    }

    /** How many different messages that consumer finished which finished the fewest. */
    int least(List<String> who) {
        return who.stream().mapToInt(one -> firsts(one).size()).min().orElse(0);
    }

    /** What to say when the consumers did not finish so many messages in time. */
    Supplier<String> progress(List<String> who, int wanted) {
        return () -> String.join(", ", who.stream().map(one -> one + " finished " + firsts(one).size() + " of " + wanted).toList());
    }

    /** The first successes are 0, 1, … in this order. {@code once}: and nothing came a second time. */
    void expectInOrder(String who, String lane, int length, boolean once) {
        List<Long> came = numbers(who, lane);
        List<Long> firsts = came.stream().distinct().toList();
        require(firsts.equals(below(length)), who + " finished " + lane + " in the order " + firsts + " instead of 0 to " + (length - 1));
        if (came.size() > firsts.size()) {
            say(who + " finished " + (came.size() - firsts.size()) + " messages of " + lane + " more than once");
        }
        require(!once || came.size() == firsts.size(), who + " got messages of " + lane + " more than once: " + came);
    }

    /** The numbers below {@code length} in any order. {@code once}: each once. */
    void expectAll(String who, String lane, int length, boolean once) {
        List<Long> came = numbers(who, lane);
        require(came.stream().distinct().sorted().toList().equals(below(length)), "of `" + lane + "` came " + came);
        require(!once || came.size() == length, "of `" + lane + "` some came more than once: " + came);
    }

    private static List<Long> below(int length) {
        return Arrays.stream(LongStream.range(0, length).toArray()).boxed().toList();
    }
}
