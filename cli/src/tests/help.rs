//! The help of every command, and completions for every shell.

use super::run_line;
use clap::Command;

/// All commands with their parents' names, in the order of the help.
fn walk(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
    let path = format!("{path}{}", command.get_name());
    found.push((path.clone(), command.clone()));
    for child in command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help") {
        walk(child, &format!("{path} "), found);
    }
}

fn all() -> Vec<(String, Command)> {
    let mut tree = crate::command_tree().term_width(100).disable_help_subcommand(true);
    tree.build();
    let mut found = Vec::new();
    walk(&tree, "", &mut found);
    found
}

#[test]
fn help_of_every_command() {
    for (path, command) in all() {
        let help = command.term_width(100).render_help().to_string();
        insta::assert_snapshot!(format!("help {path}").replace(' ', "_"), help);
    }
}

#[test]
fn every_command_that_does_something_shows_examples_that_parse() {
    for (path, command) in all().into_iter().filter(|(_, command)| !command.has_subcommands()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Examples:"), "`{path}` shows no examples");
        for line in help.lines().filter_map(|line| line.split('|').map(str::trim).find(|part| part.starts_with("gantry "))) {
            check(&words(line));
        }
    }
}

fn check(words: &[String]) {
    if let Err(error) = crate::command_tree().try_get_matches_from(words) {
        panic!("{words:?}: {error}");
    }
}

/// Splits an example as a shell does: quotes hold words together; a redirection, or the explanation after a gap, ends the command.
fn words(line: &str) -> Vec<String> {
    let line = line.split("   ").next().unwrap().split(" > ").next().unwrap();
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[tokio::test]
async fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run_line(&format!("gantry completions {shell}"), "").await;
        for word in ["topic", "consume", "lag", "completions", "--endpoint"] {
            assert!(ran.out.contains(word.trim_start_matches("--")), "{shell} lacks {word}");
        }
    }
}

#[test]
fn options_agree_with_each_other() {
    crate::command_tree().debug_assert();
}
