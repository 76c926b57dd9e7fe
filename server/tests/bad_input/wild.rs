//! Requests that no client would make, drawn from a seed: sound messages with senseless values, damaged messages, and noise.
//!
//! They are made from the protocol's own descriptors, so that a new rpc or field is attacked from its first day.

use gantry_platform::{Chance, SeededChance};
use prost::Message;
use prost::encoding::encode_varint;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::HashMap;
use std::sync::Arc;

/// Messages inside messages.
const DEPTH: usize = 7;
const NUMBERS: [u64; 12] = [0, 1, 2, 16, 255, 1 << 20, i32::MAX as u64, i32::MIN as u64, u32::MAX as u64, i64::MAX as u64, i64::MIN as u64, u64::MAX];
/// Names that exist, that nearly exist, and that can't. The topic of the client that goes on working is none of them.
const TEXTS: [&str; 14] = [
    "",
    "wild",
    "%DLQ%wild",
    "%RETRY%wild",
    "*",
    "a || b",
    "a ||",
    "\u{0}",
    "../../etc/passwd",
    "\u{1d54f}\u{202e}",
    "wild/3/0",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "-1",
    "a\r\nb: c",
];

/// What can be called, and of what its requests are made.
pub struct Protocol {
    messages: HashMap<String, DescriptorProto>,
    pub rpcs: Vec<Rpc>,
}

/// One call that a service offers.
#[derive(Clone)]
pub struct Rpc {
    pub path: String,
    /// Which of the server's ports offers it.
    pub port: &'static str,
    /// The type of its request.
    kind: String,
}

impl Protocol {
    pub fn new() -> Protocol {
        let files = FileDescriptorSet::decode(gantry_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let mut protocol = Protocol { messages: HashMap::new(), rpcs: Vec::new() };
        for file in files {
            let package = file.package().to_owned();
            for service in &file.service {
                let port = if service.name() == "Admin" { "admin" } else { "messaging" };
                let path = |method: &str| format!("/{package}.{}/{method}", service.name());
                protocol.rpcs.extend(service.method.iter().map(|method| Rpc {
                    path: path(method.name()),
                    port,
                    kind: method.input_type().to_owned(),
                }));
            }
            file.message_type.into_iter().for_each(|message| protocol.learn(&format!(".{package}"), message));
        }
        protocol
    }

    fn learn(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.learn(&name, nested.clone()));
        self.messages.insert(name, message);
    }
}

/// Draws requests.
pub struct Wild {
    pub protocol: Arc<Protocol>,
    pub chance: SeededChance,
}

impl Wild {
    /// A request of this type, mostly sound.
    pub fn request(&mut self, rpc: &Rpc) -> Vec<u8> {
        let kind = &rpc.kind;
        match self.chance.below(10) {
            0 => self.noise(300),
            1..3 => {
                let mut bytes = self.message(kind, DEPTH);
                self.damage(&mut bytes);
                bytes
            }
            _ => self.message(kind, DEPTH),
        }
    }

    pub fn noise(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.chance.below(most as u64) as usize];
        self.chance.fill(&mut bytes);
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.chance.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.chance.below(bytes.len() as u64) as usize;
            match self.chance.below(3) {
                0 => bytes[at] = self.chance.next_u64() as u8,
                1 => bytes.truncate(at),
                _ => bytes.insert(at, 0xff),
            }
        }
    }

    fn message(&mut self, kind: &str, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if depth == 0 {
            return out;
        }
        let protocol = self.protocol.clone();
        for field in &protocol.messages[kind].field {
            let times = match field.label() {
                Label::Repeated => [0, 1, 2, 40][self.chance.below(if depth == DEPTH { 4 } else { 3 }) as usize],
                _ => usize::from(self.chance.ratio(9, 10)),
            };
            (0..times).for_each(|_| self.field(field, depth, &mut out));
        }
        out
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: usize, out: &mut Vec<u8>) {
        let tag = |wire: u64, out: &mut Vec<u8>| encode_varint((field.number() as u64) << 3 | wire, out);
        let bytes = match field.r#type() {
            Type::Message => self.message(field.type_name(), depth - 1),
            Type::String => self.text(field.name()),
            Type::Bytes => self.noise(200),
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                tag(1, out);
                return out.extend(self.number().to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                tag(5, out);
                return out.extend((self.number() as u32).to_le_bytes());
            }
            _ => {
                tag(0, out);
                return encode_varint(self.number(), out);
            }
        };
        tag(2, out);
        encode_varint(bytes.len() as u64, out);
        out.extend(bytes);
    }

    fn number(&mut self) -> u64 {
        match self.chance.below(3) {
            0 => NUMBERS[self.chance.below(NUMBERS.len() as u64) as usize],
            1 => self.chance.below(8),
            _ => self.chance.next_u64() >> self.chance.below(64),
        }
    }

    /// Mostly a name that exists where one is expected, or nothing would get past the first check.
    fn text(&mut self, field: &str) -> Vec<u8> {
        if self.chance.ratio(9, 10) {
            match field {
                "name" | "topic" | "group" => return b"wild".to_vec(),
                "resource_namespace" | "namespace" => return Vec::new(),
                _ => {}
            }
        }
        match self.chance.below(8) {
            0 => self.noise(40),
            1 => vec![b'w'; self.chance.below(400) as usize],
            _ => TEXTS[self.chance.below(TEXTS.len() as u64) as usize].as_bytes().to_vec(),
        }
    }
}
