//! Are we the same on the wire as the official clients? The official Python client carries compiled descriptors of the protocol; a
//! script prints them as plain facts, we print ours in the same form, and every fact of theirs must be one of ours. We may know more:
//! the client's Admin service, for one, is older than ours.

#![allow(clippy::unwrap_used)]

use gantry_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Facts by what they are about: `field Message.body` → `4 TYPE_BYTES - single`.
type Listing = BTreeMap<String, String>;

const PACKAGE: &str = "apache.rocketmq.v2";

#[test]
fn everything_the_official_client_knows_is_the_same_here() {
    let official = parse(&official_listing());
    for landmark in ["field Message.body", "value Code.OK", "rpc MessagingService.Telemetry", "option service.proto.java_package"] {
        assert!(official.contains_key(landmark), "the listing of the official client lacks `{landmark}`: is the script broken?");
    }
    let differences = differences(&official, &our_listing());
    assert!(differences.is_empty(), "{} facts differ from the official client:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn a_listing_that_differs_is_noticed() {
    fn check(subject: &str, official_facts: &str, expected: &str) {
        let mut official = our_listing();
        official.insert(subject.to_owned(), official_facts.to_owned());
        assert_eq!(differences(&official, &our_listing()), [expected]);
    }
    check("field Message.body", "5 TYPE_BYTES - single", "field Message.body: official `5 TYPE_BYTES - single`, ours `4 TYPE_BYTES - single`");
    check(
        "field Subscription.fifo",
        "3 TYPE_BOOL - single",
        "field Subscription.fifo: official `3 TYPE_BOOL - single`, ours `3 TYPE_BOOL - optional`",
    );
    check("field Message.colour", "9 TYPE_STRING - single", "field Message.colour: official `9 TYPE_STRING - single`, ours missing");
    check("value Code.OK", "20001", "value Code.OK: official `20001`, ours `20000`");
    check(
        "rpc MessagingService.ReceiveMessage",
        ".apache.rocketmq.v2.ReceiveMessageRequest -> .apache.rocketmq.v2.ReceiveMessageResponse",
        "rpc MessagingService.ReceiveMessage: \
         official `.apache.rocketmq.v2.ReceiveMessageRequest -> .apache.rocketmq.v2.ReceiveMessageResponse`, \
         ours `.apache.rocketmq.v2.ReceiveMessageRequest -> stream .apache.rocketmq.v2.ReceiveMessageResponse`",
    );
}

#[test]
fn what_only_we_know_is_allowed() {
    let mut official = our_listing();
    official.remove("rpc Admin.GetProxyRuntimeStats").unwrap();
    assert_eq!(differences(&official, &our_listing()), [""; 0]);
}

#[test]
fn the_protocol_is_complete() {
    let ours = our_listing();
    let count = |start: &str| ours.keys().filter(|subject| subject.starts_with(start)).count();
    let messages = ours.iter().filter(|(subject, facts)| subject.starts_with("message ") && *facts == "plain").count();
    assert_eq!(messages, 22 + 43 + 41, "messages of definition, service and admin");
    assert_eq!(count("rpc MessagingService."), 17);
    assert_eq!(count("rpc Admin."), 16);
    assert_eq!(count("value Code."), 54);
}

/// What the official client says and we don't, in words.
fn differences(official: &Listing, ours: &Listing) -> Vec<String> {
    let differs = |(subject, theirs): (&String, &String)| match ours.get(subject) {
        Some(here) if here == theirs => None,
        Some(here) => Some(format!("{subject}: official `{theirs}`, ours `{here}`")),
        None => Some(format!("{subject}: official `{theirs}`, ours missing")),
    };
    official.iter().filter_map(differs).collect()
}

/// The site-packages folder with the official client.
fn python_client() -> PathBuf {
    let folder = match std::env::var_os("GANTRY_PYTHON_CLIENT") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/python-client"),
    };
    assert!(
        folder.join("rocketmq").is_dir(),
        "no official Python client in `{}`: run `tests/setup`, or let `GANTRY_PYTHON_CLIENT` name the folder it is installed in",
        folder.display()
    );
    folder
}

fn official_listing() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/official_descriptors.py");
    let output = Command::new("python3").arg("-IB").arg(script).arg(python_client()).output().expect("`python3` is on the path");
    assert!(output.status.success(), "`official_descriptors.py` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn parse(text: &str) -> Listing {
    let fact = |line: &str| line.split_once(" = ").map(|(subject, facts)| (subject.to_owned(), facts.to_owned()));
    text.lines().map(|line| fact(line).unwrap_or_else(|| panic!("`{line}` is not a fact"))).collect()
}

fn our_listing() -> Listing {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut lines = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == PACKAGE) {
        list_file(file, &mut lines);
    }
    parse(&lines.join("\n"))
}

fn list_file(file: &FileDescriptorProto, lines: &mut Vec<String>) {
    let name = file.name().rsplit('/').next().unwrap();
    let options = file.options.clone().unwrap_or_default();
    let text = |value: Option<String>| value.map(|value| value.to_lowercase());
    let flag = |value: Option<bool>| value.map(|value| value.to_string());
    let listed = [
        ("java_package", text(options.java_package)),
        ("java_outer_classname", text(options.java_outer_classname)),
        ("java_multiple_files", flag(options.java_multiple_files)),
        ("java_generate_equals_and_hash", flag(java_generate_equals_and_hash(file))),
        ("java_string_check_utf8", flag(options.java_string_check_utf8)),
        ("cc_enable_arenas", flag(options.cc_enable_arenas)),
        ("csharp_namespace", text(options.csharp_namespace)),
    ];
    lines.extend(listed.into_iter().filter_map(|(option, value)| Some(format!("option {name}.{option} = {}", value?))));
    file.enum_type.iter().for_each(|kind| list_enum(kind, "", lines));
    file.message_type.iter().for_each(|message| list_message(message, "", lines));
    file.service.iter().for_each(|service| list_service(service, lines));
}

/// The option is deprecated, but it is part of the published files.
#[allow(deprecated)]
fn java_generate_equals_and_hash(file: &FileDescriptorProto) -> Option<bool> {
    file.options.as_ref()?.java_generate_equals_and_hash
}

fn list_enum(kind: &EnumDescriptorProto, scope: &str, lines: &mut Vec<String>) {
    lines.extend(kind.value.iter().map(|value| format!("value {scope}{}.{} = {}", kind.name(), value.name(), value.number())));
}

fn list_message(message: &DescriptorProto, scope: &str, lines: &mut Vec<String>) {
    let path = format!("{scope}{}", message.name());
    let is_map = message.options.as_ref().is_some_and(|options| options.map_entry());
    lines.push(format!("message {path} = {}", if is_map { "map" } else { "plain" }));
    for field in &message.field {
        let kind = if field.type_name().is_empty() { "-" } else { field.type_name() };
        let facts = format!("{} {} {kind} {}", field.number(), field.r#type().as_str_name(), label(field, message));
        lines.push(format!("field {path}.{} = {facts}", field.name()));
    }
    lines.extend(message.reserved_range.iter().map(|gap| format!("reserved {path}.{} = {}", gap.start(), gap.end())));
    let inner = format!("{path}.");
    message.enum_type.iter().for_each(|kind| list_enum(kind, &inner, lines));
    message.nested_type.iter().for_each(|nested| list_message(nested, &inner, lines));
}

fn label(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    match field.oneof_index {
        _ if field.label() == Label::Repeated => "repeated".to_owned(),
        _ if field.proto3_optional() => "optional".to_owned(),
        Some(index) => format!("oneof:{}", message.oneof_decl[index as usize].name()),
        None => "single".to_owned(),
    }
}

fn list_service(service: &ServiceDescriptorProto, lines: &mut Vec<String>) {
    let side = |streaming: bool, kind: &str| if streaming { format!("stream {kind}") } else { kind.to_owned() };
    for method in &service.method {
        let request = side(method.client_streaming(), method.input_type());
        let response = side(method.server_streaming(), method.output_type());
        lines.push(format!("rpc {}.{} = {request} -> {response}", service.name(), method.name()));
    }
}
