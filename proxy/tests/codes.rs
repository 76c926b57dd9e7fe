//! The codes that each rpc may answer, as numbers. `docs/compatibility.md` has the same list; a code that is added to or taken from
//! `status::codes` changes what clients meet, so it is changed here as well.

use gantry_proto::v2::Code;
use gantry_proxy::metrics::Rpc;
use gantry_proxy::status::codes;

const CODES: &str = "
QueryRoute: 20000 40001 40002 40017 40402 42900 50001 50400
Heartbeat: 20000 40003 40017 42900 50400
SendMessage: 20000 30000 40000 40002 40004 40005 40006 40007 40009 40012 40014 40016 40017 40020 40300 40402 41301 41302 42900 43101 50001 50100 50400
QueryAssignment: 20000 40001 40002 40003 40017 40300 40402 40403 42900 50001 50400
ReceiveMessage: 20000 40000 40002 40003 40010 40011 40017 40018 40300 40401 40402 40403 42900 50001 50100
AckMessage: 20000 30000 40000 40002 40003 40013 40017 42900 50001 50400
ForwardMessageToDeadLetterQueue: 20000 40002 40003 40013 40017 42900 50001 50400
PullMessage: 40000 40002 40003 40010 40017 42900 50100
UpdateOffset: 40002 40003 40017 42900 50100
GetOffset: 40002 40003 40017 42900 50100
QueryOffset: 40000 40002 40017 42900 50100
EndTransaction: 40002 40008 40017 42900 50100
Telemetry: 20000 40000 40002 40003 40010 40017 40021 42900
NotifyClientTermination: 20000 40017 42900 50400
ChangeInvisibleDuration: 20000 40002 40003 40011 40013 40017 42900 50001 50400
RecallMessage: 40000 40002 40017 40402 42900 50100
SyncLiteSubscription: 40002 40003 40017 40020 42900 50100
";

#[test]
fn the_codes_of_each_rpc_are_these() {
    let mut table = String::from("\n");
    for rpc in Rpc::ALL {
        let mut numbers: Vec<i32> = codes(rpc).iter().map(|code| *code as i32).collect();
        numbers.sort_unstable();
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        table += &format!("{}: {}\n", rpc.name(), numbers.join(" "));
    }
    assert_eq!(table, CODES);
}

#[test]
fn codes_that_mean_nothing_to_a_client_are_never_sent() {
    let never = [Code::Unspecified, Code::InternalError, Code::NotFound, Code::PaymentRequired, Code::FailedToConsumeMessage];
    for rpc in Rpc::ALL {
        assert!(codes(rpc).iter().all(|code| !never.contains(code)), "{}", rpc.name());
        let mut unique: Vec<i32> = codes(rpc).iter().map(|code| *code as i32).collect();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), codes(rpc).len(), "{} lists a code twice", rpc.name());
    }
}
