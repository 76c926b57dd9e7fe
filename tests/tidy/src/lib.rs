//! Reads the project's own sources as text, so that tests can hold them to the house's rules. It never builds or runs anything.

use std::path::{Path, PathBuf};

/// One source file: its path from the root of the project, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project's root exists")
}

/// The text of a file of the project, by its path from the root.
#[expect(clippy::disallowed_methods, reason = "a test of files reads files")]
pub fn read(path: &str) -> String {
    let bytes = std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("cannot read `{path}`: {error}"));
    String::from_utf8(bytes).unwrap_or_else(|_| panic!("`{path}` is not UTF-8"))
}

/// Every Rust file that the project wrote.
pub fn rust_sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).expect("found below the root").to_string_lossy().into_owned();
    found.iter().map(relative).map(|path| Source { text: read(&path), path }).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).expect("a folder of the project can be listed");
    for entry in entries {
        let path = entry.expect("a folder of the project can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "gantry-data", "corpus", "artifacts"].contains(&name.as_str()) {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}
