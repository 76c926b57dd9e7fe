//! The settings of topics and groups as help text, from the table that the server applies.

use gantry_model::setting::Settings;

/// Lists the settings, then shows the examples of a command.
pub fn help<T: Settings>(examples: &str) -> String {
    let samples: Vec<String> = T::TABLE.iter().map(|setting| format!("{}={}", setting.name, setting.example)).collect();
    let width = samples.iter().map(String::len).max().unwrap_or(0);
    let lines: String = T::TABLE.iter().zip(samples).map(|(setting, sample)| format!("  {sample:width$}  {}\n", setting.about)).collect();
    format!("Settings, each with a value as --set takes it; a quota that is not set, or `unlimited`, bounds nothing:\n{lines}\n{examples}")
}
