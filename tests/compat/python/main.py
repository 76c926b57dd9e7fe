"""Plays one scenario with the unmodified Python client: parse the arguments, prepare the process, play, give the verdict.

Read `harness.py` next (how scenarios talk to the runner), then one file per family of scenarios.
"""

import argparse
import os
import tempfile

import trust
from harness import Run, play


def scenarios():
    """Name to function. Imported late: the client opens its log file and gRPC reads its roots when they are imported."""
    import delay
    import faults
    import fifo
    import filters
    import identity
    import letters
    import limits
    import lite
    import priority
    import push
    import send
    import simple
    import transactions

    return {
        "send_sync": send.send_sync,
        "send_async": send.send_async,
        "push_success": push.push_success,
        "push_retry_dlq": push.push_retry_dlq,
        "push_retry_then_ok": push.push_retry_then_ok,
        "simple_receive_ack": simple.simple_receive_ack,
        "simple_expire_redeliver": simple.simple_expire_redeliver,
        "simple_change_invisible": simple.simple_change_invisible,
        "simple_late_ack": simple.simple_late_ack,
        "tag_filter": filters.tag_filter,
        "group_shares": push.group_shares,
        "groups_each": push.groups_each,
        "body_4m": limits.body_4m,
        "body_too_big": limits.body_too_big,
        "body_empty": limits.body_empty,
        "illegal_names": limits.illegal_names,
        "unknown_topic": limits.unknown_topic,
        "server_killed": faults.server_killed,
        "consumer_killed": faults.consumer_killed,
        "consumer_killed_heir": faults.consumer_killed_heir,
        "producer_restart_handle": faults.producer_restart_handle,
        "fifo-order": fifo.fifo_order,
        "fifo-order-heir": fifo.fifo_order_heir,
        "fifo-retry": fifo.fifo_retry,
        "fifo-dead": fifo.fifo_dead,
        "delay": delay.delay,
        "delay-heir": delay.delay_heir,
        "delay-recall": delay.delay_recall,
        "txn-commit": transactions.txn_commit,
        "txn-rollback": transactions.txn_rollback,
        "txn-check": transactions.txn_check,
        "txn-check-heir": transactions.txn_check_heir,
        "txn-check-other": transactions.txn_check_other,
        "txn-check-other-heir": transactions.txn_check_other_heir,
        "sql-filter": filters.sql_filter,
        "sql-filter-heir": filters.sql_filter_heir,
        "priority": priority.priority,
        "priority-heir": priority.priority_heir,
        "lite": lite.lite,
        "lite-heir": lite.lite_heir,
        "dedup": identity.dedup,
        "trace-context": identity.trace_context,
        "nack-dlq-redrive": letters.nack_dlq_redrive,
        "namespace": identity.namespace,
    }


def arguments():
    parser = argparse.ArgumentParser(description="play one compat scenario")
    parser.add_argument("--scenario", required=True)
    parser.add_argument("--endpoint", required=True, metavar="HOST:PORT")
    parser.add_argument("--tls", required=True, choices=["on", "off"])
    parser.add_argument("--run", required=True, metavar="ID")
    return parser.parse_args()


def log_folder(scenario, run_id):
    """The client writes to a file under the home directory; giving it another home keeps runs apart."""
    base = os.environ.get("GANTRY_LOG_DIR") or os.path.join(tempfile.gettempdir(), "gantry-compat-logs")
    folder = os.path.join(base, f"python-{scenario}-{run_id}-{os.getpid()}")
    os.makedirs(folder, exist_ok=True)
    return folder


def main():
    given = arguments()
    folder = log_folder(given.scenario, given.run)
    os.environ["HOME"] = folder
    tls = given.tls == "on"

    def prepare():
        if tls:
            trust.trust_server(given.endpoint, folder)

    play(Run(given.scenario, given.endpoint, tls, given.run), scenarios, prepare)


if __name__ == "__main__":
    main()
