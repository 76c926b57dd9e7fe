package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	// The runner gives a scenario 150 s; ending a little earlier lets the program say where it got stuck.
	patience = 140 * time.Second
	// How long one long poll waits when nothing is there. Short, so that loops can look at the clock.
	await = 3 * time.Second
	// Clients are shut down politely, but a verdict does not wait longer than this for them.
	goodbyeTime = 4 * time.Second
	// The client's Start waits for the server's settings without a limit.
	startTime = 20 * time.Second
)

// failed is what a scenario panics with when it does not hold. As with a test's Fatal, only the scenario's own goroutine may, and tasks.
type failed struct{ reason string }

// Run is one play of one scenario: its names, its runner, the clients it opened, its verdict. A scenario that returns held. (There is no
// scenario this client cannot play at least in part.)
//
// Lines that start with `@gantry ` are for the runner; everything else a scenario prints is its log.
type Run struct {
	scenario, endpoint, id string

	answers *bufio.Reader
	open    []func() error

	mutex sync.Mutex
	doing string
}

func newRun(scenario, endpoint, id string) *Run {
	return &Run{scenario: scenario, endpoint: endpoint, id: id, answers: bufio.NewReader(os.Stdin), doing: "starting"}
}

// ---- the log and the runner

var printing sync.Mutex

// say writes a line of the program's own log.
func say(format string, values ...any) {
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(strings.ReplaceAll(fmt.Sprintf(format, values...), "\n", " "))
}

func require(condition bool, format string, values ...any) {
	if !condition {
		panic(failed{fmt.Sprintf(format, values...)})
	}
}

// check is for calls that must succeed.
func check(err error) {
	if err != nil {
		panic(failed{oneLine(err)})
	}
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

// step names what happens now, for the log and for the verdict if it never ends.
func (run *Run) step(text string) {
	run.mutex.Lock()
	run.doing = text
	run.mutex.Unlock()
	say("step: %s", text)
}

func (run *Run) doingNow() string {
	run.mutex.Lock()
	defer run.mutex.Unlock()
	return run.doing
}

// ask asks the runner and returns the rest of its `done` line as words.
func (run *Run) ask(format string, values ...any) []string {
	text := fmt.Sprintf(format, values...)
	say("@gantry ask %s", text)
	answer, err := run.answers.ReadString('\n')
	if !errors.Is(err, io.EOF) {
		check(err)
	}
	words := strings.Fields(answer)
	require(len(words) > 0, "the runner closed standard input instead of answering `ask %s`", text)
	require(words[0] == "done", "`ask %s` was answered `%s`", text, strings.TrimSpace(answer))
	return words[1:]
}

func (run *Run) name(suffix string) string {
	return run.nameIn(run.scenario, suffix)
}

// nameIn is the name another scenario of this run uses: an heir goes on with what its predecessor made.
func (run *Run) nameIn(otherScenario, suffix string) string {
	return fmt.Sprintf("%s-%s-%s", otherScenario, run.id, suffix)
}

func (run *Run) topic(options ...string) string {
	return run.topicNamed("topic", options...)
}

func (run *Run) topicNamed(suffix string, options ...string) string {
	name := run.name(suffix)
	run.ask("%s", strings.Join(slices.Concat([]string{"topic", name}, options), " "))
	return name
}

// note is kept by the runner for the heirs of this program.
func (run *Run) note(format string, values ...any) {
	say("@gantry note %s", fmt.Sprintf(format, values...))
}

func (run *Run) notes() []string {
	return strings.FieldsFunc(strings.Join(run.ask("notes"), " "), func(letter rune) bool { return letter == ';' })
}

// middle is the middle of the scenario: the runner may kill the server or this program. It tells whether the server was restarted.
func (run *Run) middle(heir string) bool {
	run.step("the middle")
	answer := strings.Join(run.ask("middle %s", heir), " ")
	require(answer == "calm" || answer == "restarted", "`ask middle` was answered `%s`", answer)
	return answer == "restarted"
}

func (run *Run) group(suffix string, options ...string) string {
	name := run.name(suffix)
	run.ask("%s", strings.Join(slices.Concat([]string{"group", name}, options, []string{"start=earliest"}), " "))
	return name
}

// expectNoLag waits a little for zero: acks travel apart from the deliveries a scenario sees.
func (run *Run) expectNoLag(group, topic string, options ...string) {
	waiting := newDeadline(10 * time.Second)
	for {
		lag := run.ask("lag %s %s %s", group, topic, strings.Join(options, " "))
		require(len(lag) == 3, "the runner answered `ask lag` with %d numbers instead of 3", len(lag))
		if slices.Equal(lag, []string{"0", "0", "0"}) {
			return
		}
		require(!waiting.over(), "lag of group `%s` is ready=%s in_flight=%s waiting=%s instead of 0", group, lag[0], lag[1], lag[2])
		time.Sleep(500 * time.Millisecond)
	}
}

// deadline is a moment on the clock that only goes forward.
type deadline struct{ at time.Time }

func newDeadline(in time.Duration) deadline { return deadline{time.Now().Add(in)} }

func (d deadline) over() bool { return time.Now().After(d.at) }

// ---- clients

// producer needs the topic at its start: without one the client waits for settings that it never asks for.
func (run *Run) producer(topic string, options ...rmq.ProducerOption) rmq.Producer {
	return run.producerIn("", topic, options...)
}

func (run *Run) producerIn(namespace, topic string, options ...rmq.ProducerOption) rmq.Producer {
	config := &rmq.Config{Endpoint: run.endpoint, NameSpace: namespace}
	producer, err := rmq.NewProducer(config, append(options, rmq.WithTopics(topic))...)
	check(err)
	check(run.started(producer))
	return producer
}

func (run *Run) simpleConsumer(group, topic, expression string) rmq.SimpleConsumer {
	consumer, err := run.trySimpleConsumer(group, topic, expression)
	check(err)
	return consumer
}

func (run *Run) trySimpleConsumer(group, topic, expression string) (rmq.SimpleConsumer, error) {
	return run.trySimpleConsumerIn("", group, topic, rmq.NewFilterExpression(expression))
}

func (run *Run) trySimpleConsumerIn(namespace, group, topic string, filter *rmq.FilterExpression) (rmq.SimpleConsumer, error) {
	consumer, err := rmq.NewSimpleConsumer(&rmq.Config{Endpoint: run.endpoint, NameSpace: namespace, ConsumerGroup: group},
		rmq.WithSimpleAwaitDuration(await),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}))
	if err != nil {
		return nil, err
	}
	return consumer, run.started(consumer)
}

func (run *Run) pushConsumer(group, topic string, inbox *Inbox, options ...rmq.PushConsumerOption) {
	options = append(options,
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: inbox.consume}))
	consumer, err := rmq.NewPushConsumer(&rmq.Config{Endpoint: run.endpoint, ConsumerGroup: group}, options...)
	check(err)
	check(run.started(consumer))
}

// litePushConsumer holds what it receives for `short`: this client does not renew on lite topics.
func (run *Run) litePushConsumer(group, topic string, inbox *Inbox) rmq.LitePushConsumer {
	consumer, err := rmq.NewLitePushConsumer(&rmq.Config{Endpoint: run.endpoint, ConsumerGroup: group},
		rmq.NewLitePushConsumerConfig(topic, short),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: inbox.consume}))
	check(err)
	check(run.started(consumer))
	return consumer
}

type client interface {
	Start() error
	GracefulStop() error
}

// started starts the client. One that cannot start has already stopped itself.
func (run *Run) started(client client) error {
	started := make(chan error, 1)
	go func() { started <- client.Start() }()
	select {
	case err := <-started:
		if err == nil {
			run.open = append(run.open, client.GracefulStop)
		}
		return err
	case <-time.After(startTime):
		return fmt.Errorf("the client did not start within %v and did not say why", startTime)
	}
}

// ---- errors

// Some paths of the client keep the status of an answer only in the text of another error.
var statusInText = regexp.MustCompile(`CODE: ([A-Z_]+), MESSAGE:`)

// code is the code of the status the server answered with, if it did.
func code(err error) (v2.Code, bool) {
	if status, found := rmq.AsErrRpcStatus(err); found {
		return v2.Code(status.GetCode()), true
	}
	if match := statusInText.FindStringSubmatch(err.Error()); match != nil {
		number, known := v2.Code_value[match[1]]
		return v2.Code(number), known
	}
	return 0, false
}

// ---- the verdict

// play plays the scenario and leaves the process with the verdict.
func (run *Run) play(scenario func(*Run)) {
	time.AfterFunc(patience, func() { leave(fmt.Sprintf("fail no end after %v while: %s", patience, run.doingNow())) })
	verdict := run.verdict(scenario)
	run.goodbye()
	leave(verdict)
}

func (run *Run) verdict(scenario func(*Run)) (verdict string) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failed:
			verdict = fmt.Sprintf("fail %s (while: %s)", reason.reason, run.doingNow())
		default:
			fmt.Fprintf(os.Stderr, "%v\n%s", reason, debug.Stack())
			verdict = fmt.Sprintf("fail panic: %v (while: %s)", reason, run.doingNow())
		}
	}()
	require(scenario != nil, "this program has no scenario `%s`", run.scenario)
	scenario(run)
	return "pass"
}

// leave ends the process at once: nothing the client still does may delay the verdict.
func leave(verdict string) {
	say("@gantry %s", verdict)
	if strings.HasPrefix(verdict, "fail") {
		os.Exit(1)
	}
	os.Exit(0)
}

// goodbye shuts the clients down, newest first, without waiting too long: a push consumer first waits for its long polls.
func (run *Run) goodbye() {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for _, stop := range slices.Backward(run.open) {
			if err := stop(); err != nil {
				say("note: shutdown of a client failed: %s", oneLine(err))
			}
		}
	}()
	select {
	case <-finished:
	case <-time.After(goodbyeTime):
		say("note: the clients did not shut down within %v", goodbyeTime)
	}
}
