package main

import (
	"fmt"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

// Tag expressions and SQL92: exactly the matching messages, and nothing left over.

func tagFilter(run *Run) {
	topic := run.topic()
	all := []string{"A", "B", "C", "AB"}
	cases := []struct {
		group, expression string
		tags              []string
	}{
		{run.group("just-a"), "A", []string{"A"}},
		{run.group("a-or-b"), "A || B", []string{"A", "B"}},
		{run.group("all"), "*", all},
	}
	run.step("sending 40 messages with four tags")
	producer := run.producer(topic)
	for _, tag := range all {
		for _, body := range numbered(tag, 10) {
			_, err := send(producer, &rmq.Message{Topic: topic, Body: []byte(body), Tag: &tag})
			check(err)
		}
	}
	run.step("receiving with three expressions")
	for _, one := range cases {
		var expected []string
		for _, tag := range one.tags {
			expected = append(expected, numbered(tag, 10)...)
		}
		consumer := run.simpleConsumer(one.group, topic, one.expression)
		expectOnce(texts(collect(consumer, len(expected), 20*time.Second)), expected)
		expectSilence(consumer, quiet)
	}
	run.step("expecting no lag")
	for _, one := range cases {
		run.expectNoLag(one.group, topic)
	}
}

// ---- SQL92

// sqlCase is a consumer group with an expression, and the same said in Go.
type sqlCase struct {
	name, expression string
	matches          func(a int, color string, hasNote bool) bool
}

const sqlRows = 30

var sqlCases = []sqlCase{
	{"and-in", "a > 5 AND color IN ('red', 'blue') AND note IS NOT NULL", func(a int, color string, hasNote bool) bool {
		return a > 5 && (color == "red" || color == "blue") && hasNote
	}},
	{"between", "a BETWEEN 10 AND 19", func(a int, _ string, _ bool) bool { return a >= 10 && a <= 19 }},
	{"equal", "color = 'green'", func(_ int, color string, _ bool) bool { return color == "green" }},
	{"or-null", "(note IS NULL AND a <= 3) OR (a >= 25 AND color <> 'red')", func(a int, color string, hasNote bool) bool {
		return (!hasNote && a <= 3) || (a >= 25 && color != "red")
	}},
}

// sqlRow is the properties of a row. A missing note is what IS NULL asks for.
func sqlRow(row int) (color string, hasNote bool) {
	return []string{"red", "green", "blue"}[row%3], row%2 == 0
}

func (one sqlCase) expected() []string {
	var bodies []string
	for row := range sqlRows {
		if color, hasNote := sqlRow(row); one.matches(row, color, hasNote) {
			bodies = append(bodies, fmt.Sprintf("row %d", row))
		}
	}
	return bodies
}

func (one sqlCase) consumer(run *Run, group, topic string) rmq.SimpleConsumer {
	consumer, err := run.trySimpleConsumerIn("", group, topic, rmq.NewFilterExpressionWithType(one.expression, rmq.SQL92))
	check(err)
	return consumer
}

func sqlFilter(run *Run) {
	topic := run.topic()
	for _, one := range sqlCases {
		run.group(one.name)
	}
	run.step("sending rows")
	producer := run.producer(topic)
	for row := range sqlRows {
		message := &rmq.Message{Topic: topic, Body: fmt.Appendf(nil, "row %d", row)}
		color, hasNote := sqlRow(row)
		message.AddProperty("a", fmt.Sprint(row))
		message.AddProperty("color", color)
		if hasNote {
			message.AddProperty("note", fmt.Sprintf("note %d", row))
		}
		_, err := send(producer, message)
		check(err)
	}
	ledger := newLedger(run)
	run.step("receiving half of what matches")
	consumers := make(map[string]rmq.SimpleConsumer)
	for _, one := range sqlCases {
		consumers[one.name] = one.consumer(run, run.name(one.name), topic)
		for _, message := range collect(consumers[one.name], len(one.expected())/2, 20*time.Second) {
			ledger.add(one.name, text(message))
		}
	}
	restarted := run.middle("sql-filter-heir")
	receiveMatching(run, topic, run.name, consumers, ledger, !restarted)
	expectIllegal(run, topic)
}

func sqlFilterHeir(run *Run) {
	inherited := func(name string) string { return run.nameIn("sql-filter", name) }
	topic := inherited("topic")
	consumers := make(map[string]rmq.SimpleConsumer)
	for _, one := range sqlCases {
		consumers[one.name] = one.consumer(run, inherited(one.name), topic)
	}
	receiveMatching(run, topic, inherited, consumers, newLedger(run), false)
}

func receiveMatching(run *Run, topic string, group func(string) string, consumers map[string]rmq.SimpleConsumer, ledger *Ledger, once bool) {
	run.step("receiving the rest")
	for _, one := range sqlCases {
		wanted := len(one.expected())
		for waiting := newDeadline(20 * time.Second); len(ledger.firsts(one.name)) < wanted; {
			require(!waiting.over(), "%d of %d rows for `%s` within 20 s", len(ledger.firsts(one.name)), wanted, one.expression)
			for _, message := range receiveSurely(consumers[one.name], batch, long) {
				ledger.add(one.name, text(message))
				ackSurely(consumers[one.name], message)
			}
		}
		var came []string
		for _, first := range ledger.firsts(one.name) {
			came = append(came, fmt.Sprintf("row %d", first.number))
		}
		expectOnce(came, one.expected())
		require(!once || len(ledger.numbers(one.name, "row")) == wanted, "rows for `%s` came more than once", one.expression)
	}
	run.step("expecting nothing else")
	for _, one := range sqlCases {
		expectSilence(consumers[one.name], 2*time.Second)
	}
	for _, one := range sqlCases {
		run.expectNoLag(group(one.name), topic)
	}
}

func expectIllegal(run *Run, topic string) {
	run.step("subscribing with an expression that is none")
	illegal := rmq.NewFilterExpressionWithType("a > AND color", rmq.SQL92)
	consumer, err := run.trySimpleConsumerIn("", run.group("illegal"), topic, illegal)
	if err == nil {
		_, err = receive(consumer, 1, short)
	}
	expectRefused("illegal expression", err, v2.Code_ILLEGAL_FILTER_EXPRESSION)
}
