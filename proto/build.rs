//! Turns the `.proto` files into Rust with protox, a compiler written in Rust, so that a build needs no protoc. It also writes the
//! compiled descriptors, which the server gives to clients that ask by reflection.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const ROOT: &str = "proto";
const FILES: [&str; 8] = [
    "apache/rocketmq/v2/definition.proto",
    "apache/rocketmq/v2/service.proto",
    "apache/rocketmq/v2/admin.proto",
    "gantry/admin/v1/admin.proto",
    "gantry/broker/v1/replica.proto",
    "gantry/broker/v1/shards.proto",
    "gantry/controller/v1/cluster.proto",
    "gantry/controller/v1/peer.proto",
];

#[expect(clippy::disallowed_methods, reason = "a build script writes what it generates")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new([ROOT])?;
    // Comments travel in the descriptors: they become rustdoc here and help text in tools that use reflection.
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets `OUT_DIR` for build scripts")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    // A body stays one reference-counted buffer from the socket to the log, hence `Bytes` for every `bytes` field.
    tonic_prost_build::configure().bytes(".").codec_path("crate::codec::Roomy").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
