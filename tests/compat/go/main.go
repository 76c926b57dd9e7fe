// Plays one scenario with the unmodified Go client: parse the arguments, prepare the process, play, give the verdict.
//
// Read harness.go next (how scenarios talk to the runner), then deliveries.go, then one file per family of scenarios.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

var scenarios = map[string]func(*Run){
	"send_sync":               sendSync,
	"send_async":              sendAsync,
	"push_success":            pushSuccess,
	"push_retry_dlq":          pushRetryDlq,
	"push_retry_then_ok":      pushRetryThenOk,
	"simple_receive_ack":      simpleReceiveAck,
	"simple_expire_redeliver": simpleExpireRedeliver,
	"simple_change_invisible": simpleChangeInvisible,
	"simple_late_ack":         simpleLateAck,
	"tag_filter":              tagFilter,
	"group_shares":            groupShares,
	"groups_each":             groupsEach,
	"body_4m":                 body4m,
	"body_too_big":            bodyTooBig,
	"body_empty":              bodyEmpty,
	"illegal_names":           illegalNames,
	"unknown_topic":           unknownTopic,
	"server_killed":           serverKilled,
	"consumer_killed":         consumerKilled,
	"consumer_killed_heir":    consumerKilledHeir,
	"producer_restart_handle": producerRestartHandle,
	"fifo-order":              fifoOrder,
	"fifo-order-heir":         fifoOrderHeir,
	"fifo-retry":              fifoRetry,
	"fifo-dead":               fifoDead,
	"delay":                   delay,
	"delay-heir":              delayHeir,
	"delay-recall":            delayRecall,
	"txn-commit":              txnCommit,
	"txn-rollback":            txnRollback,
	"txn-check":               txnCheck,
	"txn-check-heir":          func(run *Run) { inherit(run, "txn-check") },
	"txn-check-other":         txnCheckOther,
	"txn-check-other-heir":    func(run *Run) { inherit(run, "txn-check-other") },
	"sql-filter":              sqlFilter,
	"sql-filter-heir":         sqlFilterHeir,
	"priority":                priority,
	"priority-heir":           priorityHeir,
	"lite":                    lite,
	"lite-heir":               liteHeir,
	"dedup":                   dedup,
	"trace-context":           traceContext,
	"nack-dlq-redrive":        nackDlqRedrive,
	"namespace":               namespace,
}

func main() {
	scenario := flag.String("scenario", "", "`name` of the scenario")
	endpoint := flag.String("endpoint", "", "`host:port` of the server")
	tls := flag.String("tls", "", "`on|off`")
	id := flag.String("run", "", "unique `id` of this run")
	flag.Parse()
	if *scenario == "" || *endpoint == "" || *id == "" || (*tls != "on" && *tls != "off") {
		fmt.Fprintln(os.Stderr, "usage: run --scenario NAME --endpoint HOST:PORT --tls on|off --run ID")
		os.Exit(2)
	}
	folder := logFolder(*scenario, *id)
	sendLogsTo(folder)
	watchAcknowledgements(folder)
	rmq.EnableSsl = *tls == "on"
	newRun(*scenario, *endpoint, *id).play(scenarios[*scenario])
}

func logFolder(scenario, id string) string {
	base := os.Getenv("GANTRY_LOG_DIR")
	if base == "" {
		base = filepath.Join(os.TempDir(), "gantry-compat-logs")
	}
	folder := filepath.Join(base, fmt.Sprintf("go-%s-%s-%d", scenario, id, os.Getpid()))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return folder
}

// sendLogsTo moves the client's own log, which would go below the home directory.
func sendLogsTo(folder string) {
	if err := os.Setenv(rmq.CLIENT_LOG_ROOT, folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	rmq.ResetLogger()
}
