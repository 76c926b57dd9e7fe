//! `docs/compatibility.md` is a promise to users, so its tables are compared with what they speak of: the protocol's descriptors, the code's
//! list of status codes, the limits, the scenarios and the lock files of the client matrix.
//!
//! A table is known by its header row. Every complaint names the line and says what to write there; the second half of this file changes
//! the document and looks at the complaints.

use gantry_proto::FILE_DESCRIPTOR_SET;
use gantry_proto::v2::Code;
use gantry_proxy::admin_v2;
use gantry_proxy::edge;
use gantry_proxy::metrics::Rpc;
use gantry_proxy::status::codes;
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::collections::{BTreeMap, BTreeSet};

const PATH: &str = "docs/compatibility.md";
const DOCUMENT: &str = include_str!("../../docs/compatibility.md");
const LIMITS_SOURCE: &str = include_str!("../../model/src/limits.rs");
const SCENARIOS: &str = include_str!("../../tests/compat/README.md");
/// Where each client's version is pinned: the lock file, and the text before the version.
const CLIENTS: [(&str, &str, &str); 5] = [
    ("Java", include_str!("../../tests/compat/java/pom.xml"), "<artifactId>rocketmq-client-java</artifactId>"),
    ("Go", include_str!("../../tests/compat/go/go.mod"), "github.com/apache/rocketmq-clients/golang/v5 v"),
    ("Python", include_str!("../../tests/compat/python/requirements.txt"), "rocketmq-python-client=="),
    ("Node.js", include_str!("../../tests/compat/nodejs/package.json"), "\"rocketmq-client-nodejs\": \""),
    ("Rust", include_str!("../../tests/compat/rust/Cargo.toml"), "rocketmq = \"="),
];
const MESSAGING: &str = "apache.rocketmq.v2.MessagingService";
const ADMIN: &str = "apache.rocketmq.v2.Admin";
const SERVICES: [&str; 3] = [MESSAGING, "gantry.admin.v1.Admin", ADMIN];
const STATES: [&str; 3] = ["works", "partly", "not yet"];
const VERDICTS: [&str; 4] = ["honoured", "checked", "ignored", "refused"];

/// One line of a table.
#[derive(Clone, Debug)]
struct Row {
    line: usize,
    cells: Vec<String>,
}

impl Row {
    /// The text of a cell without the marks of code.
    fn plain(&self, cell: usize) -> String {
        self.cells.get(cell).map_or_else(String::new, |text| text.replace('`', ""))
    }

    /// What is wrong in this line, and how to put it right.
    fn wrong(&self, text: impl std::fmt::Display) -> String {
        format!("{PATH}:{}: {text}", self.line)
    }

    /// The five-digit numbers in backticks.
    fn codes(&self, cell: usize) -> Vec<i32> {
        let words = self.cells.get(cell).map_or("", String::as_str).split('`').skip(1).step_by(2);
        words.filter(|word| word.len() == 5).filter_map(|word| word.parse().ok()).collect()
    }
}

/// The cells of a table line; `\|` is a bar inside of one.
fn cells(line: &str) -> Option<Vec<String>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?.replace("\\|", "\u{1}");
    Some(line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect())
}

/// The rows of all tables that have this header.
fn rows(text: &str, header: &str) -> Vec<Row> {
    let wanted = cells(header).expect("a header is a table line");
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let Some(cells) = cells(line) else {
            inside = false;
            continue;
        };
        let rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-'));
        if inside && !rule {
            found.push(Row { line: number + 1, cells });
        } else if !inside {
            inside = cells == wanted;
        }
    }
    found
}

/// Complains unless the first cells name each of `expected` exactly once; answers the rows of those that are named.
fn each_once(document: &str, header: &str, expected: &[String], complaints: &mut Vec<String>) -> BTreeMap<String, Row> {
    let mut named: BTreeMap<String, Row> = BTreeMap::new();
    for row in rows(document, header) {
        let name = row.plain(0);
        if !expected.contains(&name) {
            complaints.push(row.wrong(format!("there is no `{name}`; remove this line")));
        } else if let Some(first) = named.get(&name) {
            complaints.push(row.wrong(format!("`{name}` is also in line {}; remove one of the two", first.line)));
        } else {
            named.insert(name, row);
        }
    }
    for missing in expected.iter().filter(|name| !named.contains_key(*name)) {
        complaints.push(format!("{PATH}: no line for `{missing}`; add one to the table `{header}`"));
    }
    named
}

/// Everything of which the document says something that is not so.
fn complaints(document: &str) -> Vec<String> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the compiler of the protocol wrote it");
    let mut complaints = Vec::new();
    check_scenarios(document, &mut complaints);
    check_versions(document, &mut complaints);
    check_rpcs(document, &files, &mut complaints);
    check_fields(document, &files, &mut complaints);
    check_codes(document, &files, &mut complaints);
    check_kinds(document, &files, &mut complaints);
    check_limits(document, &mut complaints);
    complaints
}

fn check_scenarios(document: &str, complaints: &mut Vec<String>) {
    let listed = rows(SCENARIOS, "| name | must hold |");
    let names: Vec<String> = listed.iter().map(|row| row.plain(0).split(' ').next().unwrap_or_default().to_owned()).collect();
    for row in each_once(document, "| scenario | Java | Go | Python | Node.js | Rust |", &names, complaints).values() {
        for cell in row.cells.iter().skip(1).filter(|cell| !["ok", "n/a", "send only"].contains(&cell.as_str())) {
            complaints.push(row.wrong(format!("`{cell}` is no result; write `ok`, `n/a` or `send only`")));
        }
    }
}

fn check_versions(document: &str, complaints: &mut Vec<String>) {
    let names: Vec<String> = CLIENTS.iter().map(|(name, _, _)| (*name).to_owned()).collect();
    let header = "| client | version | default | other transport | certificate | in the matrix |";
    let listed = each_once(document, header, &names, complaints);
    for (name, lock, before) in CLIENTS {
        let (_, after) = lock.split_once(before).expect("the lock file pins the client");
        let version: String = after.chars().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        if let Some(row) = listed.get(name).filter(|row| row.plain(1) != version) {
            complaints.push(row.wrong(format!("the matrix runs {name} {version}; write `{version}` instead of `{}`", row.plain(1))));
        }
    }
}

/// The rpcs of a service, as the protocol files declare them.
fn methods(files: &FileDescriptorSet, service: &str) -> Vec<String> {
    let (package, name) = service.rsplit_once('.').expect("a service has a package");
    let services = files.file.iter().filter(|file| file.package() == package).flat_map(|file| &file.service);
    services.filter(|service| service.name() == name).flat_map(|service| &service.method).map(|method| method.name().to_owned()).collect()
}

fn check_rpcs(document: &str, files: &FileDescriptorSet, complaints: &mut Vec<String>) {
    let headers = ["| state | what it does | codes |", "| state | note |", "| state | what it does | codes |"];
    for (service, header) in SERVICES.into_iter().zip(headers) {
        for (name, row) in each_once(document, &format!("| `{service}` {header}"), &methods(files, service), complaints) {
            if !STATES.contains(&row.plain(1).as_str()) {
                complaints.push(row.wrong(format!("`{}` is no state; write one of {STATES:?}", row.plain(1))));
            }
            match service {
                MESSAGING => check_rpc(&name, &row, complaints),
                ADMIN => {
                    check_row_codes(&name, &row, &admin_v2::codes(&name), complaints);
                }
                _ => {}
            }
        }
    }
}

/// Complains unless a row lists these codes in ascending order; answers them so.
fn check_row_codes(name: &str, row: &Row, codes: &[Code], complaints: &mut Vec<String>) -> Vec<i32> {
    let mut expected: Vec<i32> = codes.iter().map(|code| *code as i32).collect();
    expected.sort_unstable();
    if row.codes(3) != expected {
        let text: Vec<String> = expected.iter().map(|code| format!("`{code}`")).collect();
        complaints.push(row.wrong(format!("the codes of {name} are other ones in the code; write {}", text.join(" "))));
    }
    expected
}

fn check_rpc(name: &str, row: &Row, complaints: &mut Vec<String>) {
    let rpc = Rpc::named(name).expect("the code knows every rpc of the protocol");
    let expected = check_row_codes(name, row, codes(rpc), complaints);
    let answers = |code: Code| expected.contains(&(code as i32));
    let state = row.plain(1);
    let fits = match (answers(Code::Ok), answers(Code::NotImplemented)) {
        (false, _) => state == "not yet",
        (true, true) => state == "partly",
        (true, false) => state != "not yet",
    };
    if !fits {
        complaints.push(row.wrong(format!(
            "{name} cannot be `{state}`: `status::codes` has OK {}, 50100 {}",
            answers(Code::Ok),
            answers(Code::NotImplemented)
        )));
    }
}

/// Every `Type.field` that some request of a service of RocketMQ contains. Google's own types are plain values.
fn request_fields(files: &FileDescriptorSet, service: &str) -> Vec<String> {
    const PACKAGE: &str = ".apache.rocketmq.v2.";
    let all = || files.file.iter().filter(|file| format!(".{}.", file.package()) == PACKAGE);
    let types: BTreeMap<&str, &DescriptorProto> = all().flat_map(|file| &file.message_type).map(|message| (message.name(), message)).collect();
    let services = all().flat_map(|file| &file.service).filter(|each| service.ends_with(&format!(".{}", each.name())));
    let mut open: Vec<&str> = services.flat_map(|service| &service.method).filter_map(|method| method.input_type().strip_prefix(PACKAGE)).collect();
    let mut seen = BTreeSet::new();
    let mut fields = Vec::new();
    while let Some(name) = open.pop() {
        // The entries of a map are nested types, and have no line of their own.
        let Some(message) = types.get(name).filter(|_| seen.insert(name)) else { continue };
        for field in &message.field {
            fields.push(format!("{name}.{}", field.name()));
            open.extend(field.type_name().strip_prefix(PACKAGE).filter(|_| field.r#type() == Type::Message));
        }
    }
    fields
}

fn check_fields(document: &str, files: &FileDescriptorSet, complaints: &mut Vec<String>) {
    let messaging = request_fields(files, MESSAGING);
    // What both services contain is told once.
    let admin: Vec<String> = request_fields(files, ADMIN).into_iter().filter(|field| !messaging.contains(field)).collect();
    let mut named = each_once(document, "| field | verdict | what happens |", &messaging, complaints);
    named.extend(each_once(document, "| administration field | verdict | what happens |", &admin, complaints));
    check_verdicts(named, &answered_by_some_rpc(files), complaints);
}

fn check_verdicts(rows: BTreeMap<String, Row>, answered: &BTreeSet<i32>, complaints: &mut Vec<String>) {
    for (name, row) in rows {
        let verdict = row.plain(1);
        if !VERDICTS.contains(&verdict.as_str()) {
            complaints.push(row.wrong(format!("`{verdict}` is no verdict; write one of {VERDICTS:?}")));
        }
        if row.plain(2).is_empty() {
            complaints.push(row.wrong(format!("say what happens with `{name}`, or why nothing does")));
        }
        let codes = row.codes(2);
        if ["checked", "refused"].contains(&verdict.as_str()) && codes.is_empty() {
            complaints.push(row.wrong(format!("`{name}` is {verdict}; name the code that is answered")));
        }
        for code in codes.iter().filter(|code| !answered.contains(code)) {
            complaints.push(row.wrong(format!("no rpc answers {code}; see the lists of codes")));
        }
    }
}

fn answered_by_some_rpc(files: &FileDescriptorSet) -> BTreeSet<i32> {
    let admin = methods(files, ADMIN).into_iter().flat_map(|rpc| admin_v2::codes(&rpc));
    Rpc::ALL.iter().flat_map(|rpc| codes(*rpc)).copied().chain(admin).map(|code| code as i32).collect()
}

/// The values of an enum of the protocol, with their numbers.
fn values(files: &FileDescriptorSet, name: &str) -> Vec<(String, i32)> {
    let enums = files.file.iter().filter(|file| file.package() == "apache.rocketmq.v2").flat_map(|file| &file.enum_type);
    enums.filter(|each| each.name() == name).flat_map(|each| &each.value).map(|value| (value.name().to_owned(), value.number())).collect()
}

fn check_codes(document: &str, files: &FileDescriptorSet, complaints: &mut Vec<String>) {
    let values = values(files, "Code");
    let numbers: Vec<String> = values.iter().map(|(_, number)| number.to_string()).collect();
    let listed = each_once(document, "| code | name | when Gantry answers it |", &numbers, complaints);
    let answered = answered_by_some_rpc(files);
    for (name, number) in values {
        let Some(row) = listed.get(&number.to_string()) else { continue };
        if row.plain(1) != name {
            complaints.push(row.wrong(format!("{number} is called {name}; write that instead of {}", row.plain(1))));
        }
        match (answered.contains(&number), row.plain(2).starts_with("not answered")) {
            (true, true) => complaints.push(row.wrong(format!("some rpc has {number} in its codes; say when it is answered"))),
            (false, false) => complaints.push(row.wrong(format!("no rpc has {number} in its codes; begin with `not answered`"))),
            _ if row.plain(2).is_empty() => complaints.push(row.wrong(format!("say when {number} is answered"))),
            _ => {}
        }
    }
}

fn check_kinds(document: &str, files: &FileDescriptorSet, complaints: &mut Vec<String>) {
    for (kind, of) in [("message type", "MessageType"), ("client type", "ClientType"), ("filter type", "FilterType")] {
        let names: Vec<String> = values(files, of).into_iter().map(|(name, _)| name).collect();
        for row in each_once(document, &format!("| {kind} | state | what happens |"), &names, complaints).values() {
            if !STATES.contains(&row.plain(1).as_str()) {
                complaints.push(row.wrong(format!("`{}` is no state; write one of {STATES:?}", row.plain(1))));
            }
        }
    }
}

macro_rules! model_limits {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), gantry_model::limits::$name as u64)),+] };
}

/// The limits of the model, by the name of their constant.
fn model_limits() -> Vec<(&'static str, u64)> {
    let limits = model_limits!(
        TOPIC_NAME_MAX,
        GROUP_NAME_MAX,
        BODY_MAX,
        PROPERTIES_MAX,
        PROPERTIES_BYTES_MAX,
        MESSAGE_GROUP_BYTES,
        MESSAGE_ID_MAX,
        CLIENT_ID_MAX,
        BATCH_MESSAGES_MAX,
        BATCH_BYTES_MAX,
        RECEIVE_BATCH_MAX,
        INVISIBLE_MIN_MS,
        INVISIBLE_MAX_MS,
        POLL_MAX_MS,
        DELAY_MAX_MS,
        TIMERS_PER_TOPIC,
        AUTO_RENEW_CAP_MS,
        LEASES_PER_CURSOR,
        CURSOR_SPAN_MAX,
        FILTER_MAX,
        MAX_ATTEMPTS,
        QUEUES_DEFAULT,
        ROUTE_QUEUES_MAX,
        ACK_ENTRIES_MAX,
        LITE_NAME_BYTES_MAX,
        LITE_TOPICS_MAX,
        LITE_QUOTA,
        LITE_SUBSCRIPTIONS_MAX,
        LITE_ADDS_PER_S,
    );
    limits.into()
}

/// The limits of the edge, by the name of their field; times in seconds.
fn edge_limits() -> Vec<(&'static str, u64)> {
    // Named one by one, so that a new limit does not compile without its line here.
    let edge::Limits {
        connections,
        handshakes,
        handshake_time,
        first_call_time,
        idle_time,
        keepalive_interval,
        keepalive_timeout,
        streams,
        error_resets,
        pending_resets,
        header_list_bytes,
        window_bytes,
        send_bytes,
        list_bytes,
        names_bytes,
        decode_bytes,
        open_polls,
    } = edge::Limits::default();
    vec![
        ("connections", connections as u64),
        ("handshakes", handshakes as u64),
        ("handshake_time", handshake_time.as_secs()),
        ("first_call_time", first_call_time.as_secs()),
        ("idle_time", idle_time.as_secs()),
        ("keepalive_interval", keepalive_interval.as_secs()),
        ("keepalive_timeout", keepalive_timeout.as_secs()),
        ("streams", u64::from(streams)),
        ("error_resets", error_resets as u64),
        ("pending_resets", pending_resets as u64),
        ("header_list_bytes", u64::from(header_list_bytes)),
        ("window_bytes", u64::from(window_bytes)),
        ("send_bytes", send_bytes as u64),
        ("list_bytes", list_bytes as u64),
        ("names_bytes", names_bytes as u64),
        ("decode_bytes", decode_bytes as u64),
        ("open_polls", open_polls as u64),
    ]
}

/// A number as the document writes it: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The unit in which a limit counts, by its name, where the name says one.
fn unit(name: &str) -> Option<&'static str> {
    match name {
        _ if name.ends_with("_MS") => Some("ms"),
        _ if name.ends_with("_time") || name.starts_with("keepalive_") => Some("s"),
        _ if name.to_ascii_lowercase().contains("bytes") || name == "BODY_MAX" || name == "FILTER_MAX" => Some("bytes"),
        _ => None,
    }
}

fn check_limits(document: &str, complaints: &mut Vec<String>) {
    let tables =
        [("| limit | value | constant | beyond it |", model_limits()), ("| limit of the edge | default | field | beyond it |", edge_limits())];
    for (header, limits) in tables {
        let by_name = rows(document, header);
        for (name, number) in limits {
            let named: Vec<&Row> = by_name.iter().filter(|row| row.plain(2) == name).collect();
            let [row] = named.as_slice() else {
                complaints.push(format!("{PATH}: {} lines for `{name}`; the table `{header}` has one for each", named.len()));
                continue;
            };
            let (value, said) = row.cells[1].split_once(' ').unwrap_or((&row.cells[1], ""));
            if value != grouped(number) {
                complaints.push(row.wrong(format!("`{name}` is {}; write that instead of {value}", grouped(number))));
            }
            if let Some(unit) = unit(name).filter(|unit| *unit != said) {
                complaints.push(row.wrong(format!("`{name}` counts {unit}, not {said}")));
            }
        }
        let known: BTreeSet<&str> = model_limits().into_iter().chain(edge_limits()).map(|(name, _)| name).collect();
        for row in by_name.iter().filter(|row| !known.contains(row.plain(2).as_str())) {
            complaints.push(row.wrong(format!("there is no `{}`; remove this line", row.plain(2))));
        }
    }
}

#[test]
fn the_document_is_true() {
    let complaints = complaints(DOCUMENT);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_limit_of_the_model_is_compared() {
    let declared: Vec<&str> = LIMITS_SOURCE.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    let compared: Vec<&str> = model_limits().into_iter().map(|(name, _)| name).collect();
    assert_eq!(declared, compared, "model/src/limits.rs has other constants than `model_limits` in this file, in this order");
}

/// The line of the document that holds this text.
fn line_of(text: &str) -> usize {
    DOCUMENT.lines().position(|line| line.contains(text)).expect("the document has the text") + 1
}

/// Changes the first line that holds `text` and expects the one complaint to be about it.
fn check_changed(text: &str, change: impl Fn(&str) -> String, expected: &str) {
    let line = line_of(text);
    let changed: Vec<String> = DOCUMENT.lines().enumerate().map(|(at, each)| if at + 1 == line { change(each) } else { each.to_owned() }).collect();
    let complaints = complaints(&changed.join("\n"));
    let [complaint] = complaints.as_slice() else { panic!("one complaint about `{text}`: {complaints:?}") };
    assert!(complaint.contains(expected), "{complaint}");
    let elsewhere = expected.starts_with("no line for") || expected.contains("lines for");
    assert!(elsewhere || complaint.starts_with(&format!("{PATH}:{line}: ")), "{complaint}");
}

#[test]
fn a_changed_number_or_word_is_named_with_its_line() {
    let replaced = |from: &'static str, to: &'static str| move |line: &str| line.replacen(from, to, 1);
    check_changed("| Go | 5.1.4 |", replaced("5.1.4", "5.1.3"), "write `5.1.4` instead of `5.1.3`");
    check_changed("| `send_async` |", replaced("ok", "maybe"), "write `ok`, `n/a` or `send only`");
    check_changed("| Heartbeat | works |", replaced(" `50400`", ""), "write `20000` `40003` `40017` `42900` `50400`");
    check_changed("| QueryRoute | works |", replaced("`50001` ", "`50001` `50002` "), "the codes of QueryRoute");
    check_changed("| RecallMessage | works |", replaced("works", "not yet"), "RecallMessage cannot be `not yet`");
    check_changed("| SendMessage | works |", replaced("works", "not yet"), "SendMessage cannot be `not yet`");
    check_changed("| ListTopics | works |", replaced("works", "fine"), "`fine` is no state");
    check_changed("| `SystemProperties.queue_id` |", replaced("ignored", "lost"), "`lost` is no verdict");
    check_changed("| `Address.host` |", replaced("`40001`", "`40100`"), "no rpc answers 40100");
    check_changed("| `UA.platform` |", replaced("information only", ""), "or why nothing does");
    check_changed("| 40100 |", replaced("not answered", "a wrong password"), "begin with `not answered`");
    check_changed("| DescribeTopicStatus | works |", replaced(" `50400`", ""), "the codes of DescribeTopicStatus");
    check_changed("| `ListMessageRequest.lite_topic` |", replaced("`50100`", "no"), "name the code that is answered");
    check_changed("| 40402 |", |_| "| 40402 | TOPIC_NOT_FOUND | not answered |".to_owned(), "say when it is answered");
    check_changed("| 42800 |", replaced("PRECONDITION_FAILED", "PRECONDITION"), "42800 is called PRECONDITION_FAILED");
    check_changed("| FIFO | works |", replaced("works", "soon"), "`soon` is no state");
    check_changed("`BODY_MAX`", replaced("4,194,304", "4,194,305"), "`BODY_MAX` is 4,194,304");
    check_changed("`POLL_MAX_MS`", replaced("ms", "s"), "`POLL_MAX_MS` counts ms");
    check_changed("`handshake_time`", replaced("5 s", "6 s"), "`handshake_time` is 5");
}

#[test]
fn a_line_too_few_or_too_many_is_named() {
    for (text, name) in [
        ("| `unknown_topic` |", "unknown_topic"),
        ("| AckMessage | works |", "AckMessage"),
        ("| DeleteGroup | works |", "DeleteGroup"),
        ("| QueryTimeSpan | works |", "QueryTimeSpan"),
        ("| `ListMessageRequest.scroll_id` |", "ListMessageRequest.scroll_id"),
        ("| `SystemProperties.priority` |", "SystemProperties.priority"),
        ("| `OffsetOption.tail_n` |", "OffsetOption.tail_n"),
        ("| 60000 |", "60000"),
        ("| PULL_CONSUMER |", "PULL_CONSUMER"),
    ] {
        check_changed(text, |_| "| --- |".to_owned(), &format!("no line for `{name}`"));
    }
    check_changed("`FILTER_MAX`", |_| "| --- |".to_owned(), "0 lines for `FILTER_MAX`");
    check_changed("| `Message.body` |", |line| line.replace("Message.body", "Message.soul") + "\n" + line, "there is no `Message.soul`");
    let twice = DOCUMENT.replace("| `UA.platform` |", "| `UA.hostname` | ignored | information only |\n| `UA.platform` |");
    assert!(complaints(&twice).iter().any(|complaint| complaint.contains("`UA.hostname` is also in line")), "a second line is found");
}

#[test]
fn bars_inside_of_a_cell_do_not_end_it() {
    assert_eq!(cells("| `A \\|\\| B` | x |"), Some(vec!["`A || B`".to_owned(), "x".to_owned()]));
    assert_eq!(cells("no table"), None);
}

#[test]
fn the_walk_over_the_descriptors_reaches_every_depth() {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the compiler of the protocol wrote it");
    let fields = request_fields(&files, MESSAGING);
    for deep in ["Address.port", "Digest.checksum", "Message.user_properties", "CustomizedBackoff.next", "OffsetOption.tail_n"] {
        assert_eq!(fields.iter().filter(|field| *field == deep).count(), 1, "{deep}");
    }
    assert!(!fields.iter().any(|field| field.starts_with("SendResultEntry.")), "answers are no requests");
    assert!(request_fields(&files, ADMIN).contains(&"ListConsumerConnectionRequest.liteTopic".to_owned()), "names are the protocol's");
}
