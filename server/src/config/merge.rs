//! Where each setting's value comes from: flags over environment over file over defaults.
//!
//! A document is flattened to `path = value` pairs, so that every source says the same thing in the same form and the winner remembers
//! where it came from. Nothing is interpreted here; that is `config.rs`.

use super::keys::{KEYS, Key};
use std::collections::BTreeMap;
use std::fmt;
use yaml_serde::Value;

/// Who said what a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File(String),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => f.write_str(path),
            Source::Environment(name) => f.write_str(name),
            Source::Flag(name) => f.write_str(name),
        }
    }
}

/// The text of a setting and who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub text: String,
    pub source: Source,
}

/// Every setting's value, by its path; one that has none has an empty text.
pub type Merged = BTreeMap<&'static str, Effective>;

/// Something that is wrong in a source, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub source: Source,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.text)
    }
}

/// The configuration file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub path: String,
    pub text: String,
}

/// What the sources say together. `flags` are pairs of a path and a text, with the flag's name.
pub fn merge(document: Option<&Document>, env: &BTreeMap<String, String>, flags: &[(String, String, String)]) -> (Merged, Vec<Problem>) {
    let default = |key: &'static Key| (key.path, Effective { text: key.default.to_owned(), source: Source::Default });
    let mut merged: Merged = KEYS.iter().map(default).collect();
    let mut problems = Vec::new();
    let mut put = |path: &str, text: String, source: Source| match Key::find(path) {
        Some(key) => _ = merged.insert(key.path, Effective { text, source }),
        None => problems.push(Problem { text: unknown(path), source }),
    };
    let mut broken = None;
    if let Some(document) = document {
        let source = Source::File(document.path.clone());
        match flatten(&document.text) {
            Ok(pairs) => pairs.into_iter().for_each(|(path, text)| put(&path, text, source.clone())),
            Err(text) => broken = Some(Problem { source, text }),
        }
    }
    for key in KEYS {
        if let Some(text) = env.get(&key.env()).filter(|text| !text.is_empty()) {
            put(key.path, text.clone(), Source::Environment(key.env()));
        }
    }
    for (path, text, flag) in flags {
        put(path, text.clone(), Source::Flag(flag.clone()));
    }
    problems.extend(broken);
    (merged, problems)
}

fn unknown(path: &str) -> String {
    match Key::nearest(path) {
        Some(near) => format!("unknown key `{path}`, did you mean `{near}`?"),
        None => format!("unknown key `{path}`; the keys are {}", KEYS.iter().map(|key| format!("`{}`", key.path)).collect::<Vec<_>>().join(", ")),
    }
}

/// A YAML document as pairs of a dotted path and a text. Lists become texts joined by commas.
fn flatten(text: &str) -> Result<Vec<(String, String)>, String> {
    let document: Value = yaml_serde::from_str(text).map_err(|error| format!("this is not YAML: {error}"))?;
    let mut pairs = Vec::new();
    match document {
        Value::Null => {}
        Value::Mapping(_) => flatten_into("", &document, &mut pairs)?,
        _ => return Err("the document must be a mapping of keys to values, like `data: ./gantry-data`".into()),
    }
    Ok(pairs)
}

fn flatten_into(path: &str, value: &Value, pairs: &mut Vec<(String, String)>) -> Result<(), String> {
    let Value::Mapping(entries) = value else {
        pairs.push((path.to_owned(), scalar_or_list(path, value)?));
        return Ok(());
    };
    for (name, value) in entries {
        let name = scalar(name).ok_or_else(|| format!("a key below `{path}` is not a text"))?;
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        // A key without a value, as left by commenting out what is below it, says nothing.
        if !value.is_null() {
            flatten_into(&path, value, pairs)?;
        }
    }
    Ok(())
}

fn scalar_or_list(path: &str, value: &Value) -> Result<String, String> {
    let text = match value {
        Value::Sequence(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|items| items.join(", ")),
        value => scalar(value),
    };
    text.ok_or_else(|| format!("the value of `{path}` is neither a text, a number, yes or no, nor a list of them"))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(answer) => Some(answer.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document { path: "gantry.yaml".into(), text: text.into() }
    }

    fn check_problems(text: &str, expected: &[&str]) {
        let (_, problems) = merge(Some(&document(text)), &BTreeMap::new(), &[]);
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
        let file = document("data: /from/file\nports: {admin: 1, http: 2, messaging: 3}\n");
        let env = BTreeMap::from([
            ("GANTRY_PORTS_ADMIN".into(), "4".into()),
            ("GANTRY_PORTS_HTTP".into(), "5".into()),
            ("GANTRY_ENDPOINT".into(), "x".into()),
        ]);
        let flags = [("ports.admin".into(), "6".into(), "--admin-port".into())];
        let (merged, problems) = merge(Some(&file), &env, &flags);
        assert_eq!(problems, []);
        let shown = |path: &str| format!("{} from {}", merged[path].text, merged[path].source);
        assert_eq!(shown("ports.admin"), "6 from --admin-port");
        assert_eq!(shown("ports.http"), "5 from GANTRY_PORTS_HTTP");
        assert_eq!(shown("ports.messaging"), "3 from gantry.yaml");
        assert_eq!(shown("ports.metrics"), "5557 from default");
        assert_eq!(shown("data"), "/from/file from gantry.yaml");
    }

    #[test]
    fn every_unknown_key_is_named_with_the_nearest_known_one() {
        check_problems(
            "prots:\n  messaging: 1\ntls:\n  kay: x\n",
            &[
                "gantry.yaml: unknown key `prots.messaging`, did you mean `ports.messaging`?",
                "gantry.yaml: unknown key `tls.kay`, did you mean `tls.key`?",
            ],
        );
    }

    #[test]
    fn documents_that_are_no_mapping_are_refused() {
        check_problems("", &[]);
        check_problems("# nothing\nports:\n", &[]);
        check_problems("just text", &["gantry.yaml: the document must be a mapping of keys to values, like `data: ./gantry-data`"]);
        check_problems(
            "data: {",
            &["gantry.yaml: this is not YAML: did not find expected node content at line 2 column 1, while parsing a flow node"],
        );
        check_problems("listen: [{a: 1}]", &["gantry.yaml: the value of `listen` is neither a text, a number, yes or no, nor a list of them"]);
        check_problems("data: a\ndata: b\n", &["gantry.yaml: this is not YAML: duplicate entry with key \"data\""]);
    }

    #[test]
    fn lists_and_numbers_become_texts() {
        let (merged, _) = merge(Some(&document("listen: [0.0.0.0, '::']\nauto-create: false\n")), &BTreeMap::new(), &[]);
        assert_eq!((merged["listen"].text.as_str(), merged["auto-create"].text.as_str()), ("0.0.0.0, ::", "false"));
    }
}
