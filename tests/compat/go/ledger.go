package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Entry is one message that one consumer finished. A lane is a stream whose messages have an order: a message group, or a lite topic.
type Entry struct {
	who, lane string
	number    int
}

// Ledger is what consumers finished, in order, kept by the runner as notes (`<consumer> <lane> <number>`) so that it outlives this program.
type Ledger struct {
	run     *Run
	mutex   sync.Mutex
	entries []Entry
}

func newLedger(run *Run) *Ledger {
	ledger := &Ledger{run: run}
	for _, note := range run.notes() {
		words := strings.Fields(note)
		require(len(words) == 3, "a note of the ledger is `%s`", note)
		ledger.entries = append(ledger.entries, entry(words[0], words[1]+" "+words[2]))
	}
	return ledger
}

// entry reads a body `<lane> <number>`.
func entry(who, body string) Entry {
	lane, text, _ := strings.Cut(body, " ")
	number, err := strconv.Atoi(text)
	check(err)
	return Entry{who, lane, number}
}

// add takes a message down, just before it is acknowledged: then one that comes again after a kill is here twice, never missing.
func (ledger *Ledger) add(who, body string) {
	ledger.mutex.Lock()
	defer ledger.mutex.Unlock()
	ledger.run.note("%s %s", who, body)
	ledger.entries = append(ledger.entries, entry(who, body))
}

func (ledger *Ledger) numbers(who, lane string) []int {
	ledger.mutex.Lock()
	defer ledger.mutex.Unlock()
	var numbers []int
	for _, one := range ledger.entries {
		if one.who == who && one.lane == lane {
			numbers = append(numbers, one.number)
		}
	}
	return numbers
}

// firsts is what the consumer finished for the first time, in order.
func (ledger *Ledger) firsts(who string) []Entry {
	ledger.mutex.Lock()
	defer ledger.mutex.Unlock()
	seen := make(map[Entry]bool)
	var firsts []Entry
	for _, one := range ledger.entries {
		if one.who == who && !seen[one] {
			seen[one] = true
			firsts = append(firsts, one)
		}
	}
	return firsts
}

// least is how many different messages that consumer finished which finished the fewest.
func (ledger *Ledger) least(who ...string) int {
	counts := make([]int, len(who))
	for index, one := range who {
		counts[index] = len(ledger.firsts(one))
	}
	return slices.Min(counts)
}

func (ledger *Ledger) wait(wanted int, in string, who ...string) func() string {
	return func() string {
		var parts []string
		for _, one := range who {
			parts = append(parts, fmt.Sprintf("%s finished %d of %d", one, len(ledger.firsts(one)), wanted))
		}
		return strings.Join(parts, ", ") + " " + in
	}
}

// expectInOrder wants 0, 1, … as the first successes. `once`: and nothing a second time.
func (ledger *Ledger) expectInOrder(who, lane string, length int, once bool) {
	came := ledger.numbers(who, lane)
	var firsts, expected []int
	for _, one := range ledger.firsts(who) {
		if one.lane == lane {
			firsts = append(firsts, one.number)
		}
	}
	for number := range length {
		expected = append(expected, number)
	}
	require(slices.Equal(firsts, expected), "%s finished %s in the order %v instead of 0 to %d", who, lane, firsts, length-1)
	if len(came) > len(firsts) {
		say("%s finished %d messages of %s more than once", who, len(came)-len(firsts), lane)
	}
	require(!once || len(came) == len(firsts), "%s got messages of %s more than once: %v", who, lane, came)
}

// expectAll wants the numbers below `length`, in any order. `once`: each once.
func (ledger *Ledger) expectAll(who, lane string, length int, once bool) {
	came := ledger.numbers(who, lane)
	different := slices.Compact(slices.Sorted(slices.Values(came)))
	require(len(different) == length && different[0] == 0 && different[length-1] == length-1, "of `%s` came %v", lane, came)
	require(!once || len(came) == length, "of `%s` some came more than once: %v", lane, came)
}
