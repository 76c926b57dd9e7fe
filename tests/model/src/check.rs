//! Runs the checker.

use crate::scope::Scope;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::fmt;

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different worlds that were looked at.
    pub states: usize,
    /// Steps that were taken to find them.
    pub steps: usize,
    /// The most steps from the beginning to one of them.
    pub depth: usize,
    /// Whether there are no others within the scope.
    pub complete: bool,
    /// Broken invariants, each with the steps that lead there.
    pub violations: Vec<(&'static str, Vec<String>)>,
    /// What should be possible and was not seen.
    pub unseen: Vec<&'static str>,
}

/// Looks at the worlds of a scope, nearest first, at no more than `transitions` steps. On one thread it finds the same each time.
pub fn check(scope: Scope, transitions: usize, threads: usize) -> Outcome {
    let builder = scope.checker().threads(threads).target_state_count(transitions).finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_bfs().join();
    let found = checker.discoveries();
    let properties = checker.model().properties();
    let of = |expectation: Expectation| properties.iter().filter(move |property| property.expectation == expectation).map(|property| property.name);
    let steps = |name| found.get(name).map(|path| path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect());
    let violations: Vec<_> = of(Expectation::Always).filter_map(|name| Some((name, steps(name)?))).collect();
    Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        complete: checker.state_count() < transitions && violations.is_empty(),
        violations,
        unseen: of(Expectation::Sometimes).filter(|name| !found.contains_key(name)).collect(),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.complete { "complete" } else { "stopped" };
        writeln!(f, "{} states, depth {}, {extent}", self.states, self.depth)?;
        for (name, steps) in &self.violations {
            writeln!(f, "violated after {} steps: {name}", steps.len())?;
            steps.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
        }
        self.unseen.iter().try_for_each(|name| writeln!(f, "not seen: {name}"))
    }
}
