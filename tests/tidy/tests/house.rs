//! The rules of the house that a machine can check: direction of dependencies, sizes, headers, names, and that the map is true.

use gantry_tidy::{read, root, rust_sources};

/// Which crates of ours each crate may use in its own code.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("platform", &[]),
    ("proto", &["model", "platform"]),
    ("store", &["model", "platform"]),
    ("broker", &["model", "platform", "proto", "store"]),
    ("proxy", &["model", "platform", "proto"]),
    ("controller", &["model", "platform", "proto", "store"]),
    ("cli", &["model", "platform", "proto"]),
    ("server", &["model", "platform", "proto", "store", "broker", "proxy", "controller", "cli"]),
];

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for (name, allowed) in ALLOWED {
        let manifest = read(&format!("{name}/Cargo.toml"));
        let own = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in own.lines().filter(|line| line.starts_with("gantry-")) {
            let used = line.trim_start_matches("gantry-").split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&used) {
                wrong.push(format!("`{name}` uses `{used}`: roles meet at the contracts in `model` (see ARCHITECTURE.md)"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_zoo_stays_out_of_programs() {
    let crates = ALLOWED.iter().map(|(name, _)| format!("{name}/Cargo.toml"));
    let wrong: Vec<String> = crates
        .chain(["Cargo.toml".to_owned()])
        .filter(|manifest| {
            read(manifest).lines().any(|line| line.contains("features = [") && line.contains("zoo") || line.starts_with("default = ["))
        })
        .collect();
    assert!(wrong.is_empty(), "only the simulation's tests let bugs out: {wrong:?}");
    assert!(read("store/src/lib.rs").contains("compile_error!"), "the feature `zoo` must not compile without debug assertions");
}

#[test]
fn model_and_state_know_no_runtime() {
    let forbidden = ["tokio", "tonic", "std::fs", "std::net", "Instant", "SystemTime"];
    let mut wrong = Vec::new();
    for source in rust_sources().iter().filter(|source| source.path.starts_with("model/") || source.path.starts_with("broker/src/shard/state/")) {
        for (number, line) in source.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: `{word}` has no place here", source.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_platform_only() {
    let wrong: Vec<String> = rust_sources()
        .iter()
        .filter(|source| !source.path.starts_with("platform/") && !source.path.starts_with("tests/tidy/"))
        .filter(|source| {
            source.text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe ") && !line.contains("unsafe_code"))
        })
        .map(|source| source.path.clone())
        .collect();
    assert!(wrong.is_empty(), "`unsafe` outside `platform`: {wrong:?}");
}

#[test]
fn every_file_says_what_it_is_and_stays_small() {
    let mut wrong = Vec::new();
    for source in rust_sources() {
        if !source.text.starts_with("//!") {
            wrong.push(format!("{}: begin with a `//!` paragraph that says what the file is", source.path));
        }
        let lines = source.text.lines().count();
        if lines > 800 {
            wrong.push(format!("{}: {lines} lines; split it (800 at most)", source.path));
        }
        let stem = source.path.rsplit('/').next().unwrap_or_default();
        if ["common.rs", "util.rs", "utils.rs", "helper.rs", "helpers.rs", "manager.rs"].contains(&stem) {
            wrong.push(format!("{}: name it after what it does", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    for source in rust_sources() {
        for (name, line, length) in functions(&source.text) {
            if length > 70 {
                wrong.push(format!("{}:{line}: `{name}` has {length} lines (70 at most)", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions of a formatted file: name, first line, number of lines. A function ends at the closing brace in the column where it began.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let signature =
            ["pub ", "pub(crate) ", "pub(super) ", "async ", "const ", "unsafe "].iter().fold(trimmed, |rest, word| rest.trim_start_matches(word));
        let Some(rest) = signature.strip_prefix("fn ") else { continue };
        // A signature without a body, as in a trait, ends with a semicolon before any brace opens.
        let declared = lines[start..].iter().find(|candidate| candidate.contains('{') || candidate.trim_end().ends_with(';'));
        if declared.is_some_and(|candidate| !candidate.contains('{')) {
            continue;
        }
        let indent = &line[..line.len() - trimmed.len()];
        let end = format!("{indent}}}");
        if let Some(length) = lines[start..].iter().position(|candidate| *candidate == end) {
            found.push((rest.split(['(', '<']).next().unwrap_or_default().to_owned(), start + 1, length + 1));
        }
    }
    found
}

#[test]
fn a_long_function_would_be_found() {
    let text = format!("pub fn long() {{\n{}}}\n", "    work();\n".repeat(80));
    assert_eq!(functions(&text), [("long".to_owned(), 1, 82)]);
}

#[test]
fn nothing_is_left_to_do_in_secret() {
    let words =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("#[", "ignore"), concat!("allow(", "dead_code")];
    let mut wrong = Vec::new();
    for source in rust_sources() {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: `{word}`", source.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_files_that_exist() {
    let map = read("ARCHITECTURE.md");
    let mut missing = Vec::new();
    let mut named = 0;
    for word in map.split('`').skip(1).step_by(2) {
        let path = word.split_whitespace().next().unwrap_or_default();
        if path.contains('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c)) {
            named += 1;
            if !root().join(path).exists() {
                missing.push(path);
            }
        }
    }
    assert!(named > 30, "the map names only {named} files");
    assert!(missing.is_empty(), "ARCHITECTURE.md names files that don't exist: {missing:?}");
}
