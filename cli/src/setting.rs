//! The settings of topics and groups as help text, from the table that the server applies.

use gantry_model::setting::Settings;

/// Lists the settings, then shows the examples of a command.
pub fn help<T: Settings>(examples: &str) -> String {
    let width = T::TABLE.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let line = |name: &str, about: &str, example: &str| format!("  {name:width$}  {about} (as in {example})\n");
    let lines: String = T::TABLE.iter().map(|setting| line(setting.name, setting.about, setting.example)).collect();
    format!("Settings for --set; quotas are without bound unless set, `unlimited` takes one away:\n{lines}\n{examples}")
}
