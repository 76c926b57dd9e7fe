//! What an expression compiles to: operations in the order in which they happen, on a small stack of values.
//!
//! A condition is true, false or unknown. `AND` and `OR` look at their right side only when the left one leaves the question open, as in
//! RocketMQ, so what can't be evaluated there does no harm.

use super::like::Pattern;
use super::number::Number;
use crate::filter::Properties;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Most steps that one evaluation takes. A node is a step, and so is each KiB of text that is searched or read as a number.
pub const STEPS_MAX: usize = 512;
/// Bytes of text for a step.
const STEP_BYTES: usize = 1024;
/// Values that need no allocation: no expression that a person writes holds more at a time.
const STACK_ORDINARY: usize = 16;

/// Why an expression has no answer for a message. Such a message doesn't match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvaluationError {
    /// A property that is compared with a number is not one.
    NotANumber,
    /// The evaluation takes more than [`STEPS_MAX`] steps.
    TooMuchWork,
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvaluationError::NotANumber => f.write_str("a property that the expression compares with a number is not a number"),
            EvaluationError::TooMuchWork => write!(f, "the evaluation takes more than {STEPS_MAX} steps; search fewer or shorter properties"),
        }
    }
}

impl std::error::Error for EvaluationError {}

/// One operation. What it takes comes from the top of the stack, and what it gives goes there.
#[derive(Debug)]
pub enum Op {
    Literal(Literal),
    Property(Box<str>),
    /// Go to the operation with this index if the condition on top is this one; it stays there.
    Skip(bool, usize),
    Decide(Rule),
}

#[derive(Clone, Debug)]
pub enum Literal {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
}

/// How values become a condition.
#[derive(Debug)]
pub enum Rule {
    /// A bare property is a condition.
    Truth,
    Not,
    And,
    Or,
    Equal(Form),
    Compare(Comparison),
    Between(Form),
    IsNull(Form),
    Search(Search, Form, Box<str>),
    In(Form, List),
    Like(Form, Pattern),
}

impl Op {
    /// How many values it leaves, less how many it takes.
    fn growth(&self) -> isize {
        match self {
            Op::Literal(_) | Op::Property(_) => 1,
            Op::Skip(..) => 0,
            Op::Decide(Rule::And | Rule::Or | Rule::Equal(_) | Rule::Compare(_)) => -1,
            Op::Decide(Rule::Between(_)) => -2,
            Op::Decide(_) => 0,
        }
    }

    /// Whether somebody wrote it, so that it counts as a node of the expression.
    pub fn is_node(&self) -> bool {
        !matches!(self, Op::Skip(..) | Op::Decide(Rule::Truth))
    }
}

/// Whether an operation has `NOT` in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Negated,
}

impl Form {
    fn of(self, answer: bool) -> bool {
        answer == (self == Form::Plain)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// What stands behind `IN`.
#[derive(Debug)]
pub struct List {
    /// Sorted.
    texts: Box<[Box<str>]>,
    numbers: Box<[Number]>,
}

impl List {
    pub fn new(mut texts: Vec<Box<str>>, numbers: Vec<Number>) -> List {
        texts.sort_unstable();
        List { texts: texts.into(), numbers: numbers.into() }
    }

    /// Like `=` with each of them: first the texts, then the numbers.
    fn holds(&self, text: &str, budget: &mut Budget) -> Result<bool, EvaluationError> {
        if self.texts.binary_search_by(|candidate| (**candidate).cmp(text)).is_ok() {
            return Ok(true);
        }
        if self.numbers.is_empty() {
            return Ok(false);
        }
        let number = read_number(text, budget)?;
        Ok(self.numbers.contains(&number))
    }
}

/// What is left of the steps of one evaluation.
pub struct Budget {
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { bytes: STEPS_MAX * STEP_BYTES }
    }
}

impl Budget {
    /// Pays for looking at that many bytes.
    pub fn spend(&mut self, bytes: usize) -> Result<(), EvaluationError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(EvaluationError::TooMuchWork)?;
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
}

impl<'a> From<&'a Literal> for Value<'a> {
    fn from(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(condition) => Value::Bool(*condition),
            Literal::Number(number) => Value::Number(*number),
            Literal::Text(text) => Value::Text(Cow::Borrowed(text)),
        }
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(condition: Option<bool>) -> Self {
        condition.map_or(Value::Null, Value::Bool)
    }
}

impl Value<'_> {
    /// As a condition; `None` is unknown.
    fn condition(&self) -> Option<bool> {
        match self {
            Value::Bool(condition) => Some(*condition),
            _ => None,
        }
    }

    fn number(&self, budget: &mut Budget) -> Result<Number, EvaluationError> {
        match self {
            Value::Number(number) => Ok(*number),
            Value::Text(text) => read_number(text, budget),
            Value::Null | Value::Bool(_) => Err(EvaluationError::NotANumber),
        }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    ops: Box<[Op]>,
    /// How many values the stack holds at most.
    height: usize,
}

impl Program {
    pub fn new(ops: Vec<Op>) -> Program {
        let heights = ops.iter().scan(0isize, |height, op| {
            *height += op.growth();
            Some(*height)
        });
        let height = heights.max().unwrap_or_default().unsigned_abs();
        Program { ops: ops.into(), height }
    }

    /// Whether the expression is true, false or unknown for these properties.
    pub fn evaluate(&self, properties: &dyn Properties) -> Result<Option<bool>, EvaluationError> {
        if self.height <= STACK_ORDINARY {
            return self.run(&mut [const { Value::Null }; STACK_ORDINARY], properties);
        }
        self.run(&mut vec![Value::Null; self.height], properties)
    }

    fn run<'a>(&'a self, room: &mut [Value<'a>], properties: &'a dyn Properties) -> Result<Option<bool>, EvaluationError> {
        let mut stack = Stack { room, height: 0 };
        let mut budget = Budget::default();
        let mut next = 0;
        while let Some(op) = self.ops.get(next) {
            next += 1;
            budget.spend(if op.is_node() { STEP_BYTES } else { 0 })?;
            match op {
                Op::Literal(literal) => stack.push(literal.into()),
                Op::Property(name) => stack.push(properties.get(name).map_or(Value::Null, Value::Text)),
                Op::Skip(condition, target) => {
                    if stack.top().condition() == Some(*condition) {
                        next = *target;
                    }
                }
                Op::Decide(rule) => {
                    let answer = stack.decide(rule, &mut budget)?;
                    stack.push(answer.into());
                }
            }
        }
        Ok(stack.pop().condition())
    }
}

/// The values between operations. Its room is given, so that ordinary expressions need no allocation.
struct Stack<'a, 'r> {
    room: &'r mut [Value<'a>],
    height: usize,
}

impl<'a> Stack<'a, '_> {
    fn push(&mut self, value: Value<'a>) {
        self.room[self.height] = value;
        self.height += 1;
    }

    fn pop(&mut self) -> Value<'a> {
        self.height -= 1;
        std::mem::replace(&mut self.room[self.height], Value::Null)
    }

    fn top(&self) -> &Value<'a> {
        &self.room[self.height - 1]
    }

    /// Takes what a rule needs, and follows it.
    fn decide(&mut self, rule: &Rule, budget: &mut Budget) -> Result<Option<bool>, EvaluationError> {
        let last = self.pop();
        Ok(match rule {
            Rule::Truth => match last {
                Value::Bool(condition) => Some(condition),
                Value::Null => None,
                // A property is text, and text is never true.
                Value::Text(_) | Value::Number(_) => Some(false),
            },
            Rule::Not => last.condition().map(|condition| !condition),
            Rule::And => and(self.pop().condition(), last.condition()),
            Rule::Or => or(self.pop().condition(), last.condition()),
            Rule::Equal(form) => equal(&self.pop(), &last, budget)?.map(|answer| form.of(answer)),
            Rule::Compare(comparison) => compare(*comparison, &self.pop(), &last, budget)?,
            Rule::Between(form) => {
                let low = self.pop();
                between(*form, &self.pop(), &low, &last, budget)?
            }
            Rule::IsNull(form) => Some(form.of(matches!(last, Value::Null))),
            Rule::Search(search, form, text) => find(*search, *form, &last, text, budget)?,
            Rule::In(form, list) => match last {
                Value::Text(text) => Some(form.of(list.holds(&text, budget)?)),
                _ => None,
            },
            Rule::Like(form, pattern) => match last {
                Value::Text(text) => Some(form.of(pattern.fits(&text, budget)?)),
                _ => None,
            },
        })
    }
}

fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// A missing left side leaves the answer open, a missing right side denies it; that is RocketMQ's rule.
fn equal(left: &Value, right: &Value, budget: &mut Budget) -> Result<Option<bool>, EvaluationError> {
    Ok(Some(match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) => return Ok(None),
        (_, Value::Null) => false,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Bool(condition), Value::Text(text)) | (Value::Text(text), Value::Bool(condition)) => text.eq_ignore_ascii_case("true") == *condition,
        (Value::Bool(_), Value::Number(_)) | (Value::Number(_), Value::Bool(_)) => false,
        (Value::Text(left), Value::Text(right)) => left == right,
        (Value::Number(_), _) | (_, Value::Number(_)) => left.number(budget)? == right.number(budget)?,
    }))
}

fn compare(comparison: Comparison, left: &Value, right: &Value, budget: &mut Budget) -> Result<Option<bool>, EvaluationError> {
    if matches!(left, Value::Null) || matches!(right, Value::Null) {
        return Ok(None);
    }
    Ok(Some(comparison.holds(left.number(budget)?.compare(right.number(budget)?))))
}

/// Two comparisons joined by `AND`, or their opposites joined by `OR`.
fn between(form: Form, value: &Value, low: &Value, high: &Value, budget: &mut Budget) -> Result<Option<bool>, EvaluationError> {
    let (below, above, settled) = match form {
        Form::Plain => (Comparison::GreaterOrEqual, Comparison::LessOrEqual, false),
        Form::Negated => (Comparison::Less, Comparison::Greater, true),
    };
    let first = compare(below, value, low, budget)?;
    if first == Some(settled) {
        return Ok(first);
    }
    let second = compare(above, value, high, budget)?;
    Ok(if settled { or(first, second) } else { and(first, second) })
}

fn find(search: Search, form: Form, value: &Value, text: &str, budget: &mut Budget) -> Result<Option<bool>, EvaluationError> {
    let value = match (value, form) {
        (Value::Text(value), _) => value,
        (Value::Null, Form::Negated) => return Ok(None),
        _ => return Ok(Some(false)),
    };
    let found = match search {
        Search::Contains => {
            budget.spend(value.len())?;
            value.contains(text)
        }
        Search::StartsWith => value.starts_with(text),
        Search::EndsWith => value.ends_with(text),
    };
    Ok(Some(form.of(found)))
}

fn read_number(text: &str, budget: &mut Budget) -> Result<Number, EvaluationError> {
    budget.spend(text.len())?;
    Number::of_text(text).ok_or(EvaluationError::NotANumber)
}
