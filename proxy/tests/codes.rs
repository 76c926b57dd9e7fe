//! What holds for the codes of every rpc. The list itself is in `docs/compatibility.md`, which `compatibility.rs` compares with
//! `status::codes`: a code that is added or taken away changes what clients meet, so the document changes with it.

use gantry_proto::v2::Code;
use gantry_proxy::metrics::Rpc;
use gantry_proxy::status::codes;

#[test]
fn codes_that_mean_nothing_to_a_client_are_never_sent() {
    let never = [Code::Unspecified, Code::InternalError, Code::NotFound, Code::PaymentRequired, Code::FailedToConsumeMessage];
    for rpc in Rpc::ALL {
        assert!(codes(rpc).iter().all(|code| !never.contains(code)), "{}", rpc.name());
    }
}

#[test]
fn no_code_is_listed_twice() {
    for rpc in Rpc::ALL {
        let mut unique: Vec<i32> = codes(rpc).iter().map(|code| *code as i32).collect();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), codes(rpc).len(), "{}", rpc.name());
    }
}
