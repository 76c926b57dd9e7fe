//! The language once more, as slowly and plainly as possible: a tree that is checked and walked by definitions of its own, to compare with.
//!
//! Random trees are written as text, with blanks, comments, case and parentheses at random, and read back by the parser. Both must agree
//! on which are refused, and on what the others say of random messages.

use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Tree {
    Null,
    Bool(bool),
    Number(&'static str),
    Text(&'static str),
    Name(&'static str),
    Plus(Box<Tree>),
    Minus(Box<Tree>),
    Not(Box<Tree>),
    /// An operator between two sides.
    Pair(&'static str, Box<Tree>, Box<Tree>),
    IsNull(Box<Tree>, Not),
    Search(&'static str, Box<Tree>, &'static str, Not),
    Between(Box<Tree>, Box<Tree>, Box<Tree>, Not),
    In(Box<Tree>, Vec<Tree>, Not),
    /// With the escape character.
    Like(Box<Tree>, &'static str, Option<char>, Not),
}

/// Whether there is a NOT in it.
type Not = bool;

#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
}

/// `digits` times ten to the power of `shift`, exactly.
#[derive(Clone, Copy, Debug)]
struct Decimal {
    digits: i128,
    shift: i32,
}

impl Decimal {
    fn read(text: &str) -> Option<Decimal> {
        let text = text.trim_matches(|c| c <= ' ');
        let (sign, text) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let shift = exponent.parse::<i32>().ok()? - i32::try_from(fraction.len()).ok()?;
        Some(Decimal { digits: sign * digits.parse::<i128>().ok()?, shift })
    }

    fn order(self, other: Decimal) -> Ordering {
        let shift = self.shift.min(other.shift);
        let at = |decimal: Decimal| decimal.digits * 10i128.pow((decimal.shift - shift).unsigned_abs());
        at(self).cmp(&at(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.order(*other).is_eq()
    }
}

/// A number was needed and something else was there.
#[derive(Debug, PartialEq)]
struct Failed;

type Properties = BTreeMap<&'static str, &'static str>;

impl super::Properties for Properties {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        BTreeMap::get(self, name).map(|value| Cow::Borrowed(*value))
    }
}

impl Tree {
    fn bare(&self) -> &Tree {
        if let Tree::Plus(inner) = self { inner.bare() } else { self }
    }

    fn is_constant(&self) -> bool {
        matches!(self.bare(), Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Text(_))
    }

    fn is_condition(&self) -> bool {
        !matches!(self.bare(), Tree::Number(_) | Tree::Text(_) | Tree::Minus(_))
    }

    fn is_comparable(&self) -> bool {
        matches!(self.bare(), Tree::Number(_) | Tree::Name(_) | Tree::Minus(_))
    }

    /// Whether the whole and all parts make sense.
    fn is_valid(&self) -> bool {
        match self {
            Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Text(_) | Tree::Name(_) => true,
            Tree::Plus(inner) | Tree::Minus(inner) | Tree::IsNull(inner, _) | Tree::Search(_, inner, _, _) => inner.is_valid(),
            Tree::Not(inner) => inner.is_valid() && inner.is_condition(),
            Tree::In(inner, ..) | Tree::Like(inner, ..) => inner.is_valid() && matches!(inner.bare(), Tree::Name(_)),
            Tree::Pair(sign, left, right) => left.is_valid() && right.is_valid() && Tree::may_pair(sign, left, right),
            Tree::Between(value, low, high, not) => {
                let sides = [value, low, high];
                let ordered = match (low.bare(), high.bare()) {
                    (Tree::Number(low), Tree::Number(high)) => *not || decimal(low).order(decimal(high)).is_le(),
                    _ => true,
                };
                ordered && sides.iter().all(|side| side.is_valid() && side.is_comparable())
            }
        }
    }

    fn may_pair(sign: &str, left: &Tree, right: &Tree) -> bool {
        match sign {
            "AND" | "OR" => left.is_condition() && right.is_condition(),
            "=" | "<>" | "!=" => {
                let null = matches!(left.bare(), Tree::Null) || matches!(right.bare(), Tree::Null);
                let odd = matches!(left.bare(), Tree::Bool(_)) && right.is_constant() && !matches!(right.bare(), Tree::Bool(_));
                !null && !odd
            }
            _ => left.is_comparable() && right.is_comparable(),
        }
    }

    fn value(&self, of: &Properties) -> Result<Thing, Failed> {
        Ok(match self {
            Tree::Null => Thing::Null,
            Tree::Bool(condition) => Thing::Bool(*condition),
            Tree::Number(number) => Thing::Number(decimal(number)),
            Tree::Text(text) => Thing::Text((*text).to_owned()),
            Tree::Name(name) => of.get(name).map_or(Thing::Null, |value| Thing::Text((*value).to_owned())),
            Tree::Plus(inner) => inner.value(of)?,
            Tree::Minus(inner) => match (inner.bare(), inner.value(of)) {
                (Tree::Number(_) | Tree::Minus(_), Ok(Thing::Number(number))) => Thing::Number(Decimal { digits: -number.digits, ..number }),
                _ => Thing::Null,
            },
            Tree::Not(inner) => thing(inner.truth(of)?.map(|condition| !condition)),
            Tree::Pair(sign, left, right) => thing(pair(sign, left, right, of)?),
            Tree::IsNull(inner, not) => thing(Some((inner.value(of)? == Thing::Null) != *not)),
            Tree::Search(word, inner, text, not) => thing(search(word, inner, text, *not, of)?),
            Tree::Between(value, low, high, false) => thing(both(pair(">=", value, low, of), || pair("<=", value, high, of))?),
            Tree::Between(value, low, high, true) => {
                let opposite = |answer: Result<Option<bool>, Failed>| answer.map(|condition| condition.map(|condition| !condition));
                let inside = both(opposite(pair("<", value, low, of)), || opposite(pair(">", value, high, of)));
                thing(opposite(inside)?)
            }
            Tree::In(inner, list, not) => match inner.value(of)? {
                Thing::Text(text) => thing(Some(is_in(&text, list)? != *not)),
                _ => Thing::Null,
            },
            Tree::Like(inner, pattern, escape, not) => match inner.value(of)? {
                Thing::Text(text) => thing(Some(is_like(&chars(pattern), *escape, &chars(&text)) != *not)),
                _ => Thing::Null,
            },
        })
    }

    /// As a condition: a bare property is one.
    fn truth(&self, of: &Properties) -> Result<Option<bool>, Failed> {
        Ok(match self.value(of)? {
            Thing::Bool(condition) => Some(condition),
            Thing::Null => None,
            Thing::Text(_) | Thing::Number(_) => Some(false),
        })
    }
}

fn decimal(literal: &str) -> Decimal {
    Decimal::read(literal).expect("the literals of this test are numbers")
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn thing(condition: Option<bool>) -> Thing {
    condition.map_or(Thing::Null, Thing::Bool)
}

fn number(thing: &Thing) -> Result<Decimal, Failed> {
    match thing {
        Thing::Number(number) => Ok(*number),
        Thing::Text(text) => Decimal::read(text).ok_or(Failed),
        _ => Err(Failed),
    }
}

/// Three-valued AND. The second side counts only if the first is not false.
fn both(first: Result<Option<bool>, Failed>, second: impl FnOnce() -> Result<Option<bool>, Failed>) -> Result<Option<bool>, Failed> {
    let first = first?;
    if first == Some(false) {
        return Ok(first);
    }
    Ok(match (first, second()?) {
        (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    })
}

fn pair(sign: &str, left: &Tree, right: &Tree, of: &Properties) -> Result<Option<bool>, Failed> {
    match sign {
        "AND" => both(left.truth(of), || right.truth(of)),
        "OR" => {
            let not = |condition: Option<bool>| condition.map(|condition| !condition);
            Ok(not(both(left.truth(of).map(not), || right.truth(of).map(not))?))
        }
        "=" => equal(&left.value(of)?, &right.value(of)?),
        "<>" | "!=" => Ok(pair("=", left, right, of)?.map(|condition| !condition)),
        _ => {
            let (left, right) = (left.value(of)?, right.value(of)?);
            if left == Thing::Null || right == Thing::Null {
                return Ok(None);
            }
            let order = number(&left)?.order(number(&right)?);
            Ok(Some(match order {
                Ordering::Less => sign.starts_with('<'),
                Ordering::Greater => sign.starts_with('>'),
                Ordering::Equal => sign.ends_with('='),
            }))
        }
    }
}

fn equal(left: &Thing, right: &Thing) -> Result<Option<bool>, Failed> {
    Ok(match (left, right) {
        (Thing::Null, Thing::Null) => Some(true),
        (Thing::Null, _) => None,
        (_, Thing::Null) => Some(false),
        (Thing::Text(text), Thing::Bool(condition)) | (Thing::Bool(condition), Thing::Text(text)) => {
            Some((text.to_lowercase() == "true") == *condition)
        }
        (Thing::Number(_), Thing::Text(_)) | (Thing::Text(_), Thing::Number(_)) => Some(number(left)? == number(right)?),
        // Things of two kinds are never equal.
        _ => Some(left == right),
    })
}

fn search(word: &str, inner: &Tree, text: &str, not: bool, of: &Properties) -> Result<Option<bool>, Failed> {
    if text.is_empty() {
        return Ok(Some(false));
    }
    let (value, text) = match inner.value(of)? {
        Thing::Text(value) => (chars(&value), chars(text)),
        Thing::Null if not => return Ok(None),
        _ => return Ok(Some(false)),
    };
    let places: Vec<usize> = (0..=value.len()).filter(|&from| value[from..].starts_with(&text)).collect();
    let found = match word {
        "CONTAINS" => !places.is_empty(),
        "STARTSWITH" => places.contains(&0),
        _ => places.iter().any(|place| place + text.len() == value.len()),
    };
    Ok(Some(found != not))
}

fn is_in(text: &str, list: &[Tree]) -> Result<bool, Failed> {
    if list.iter().any(|element| matches!(element, Tree::Text(candidate) if *candidate == text)) {
        return Ok(true);
    }
    for element in list.iter().filter(|element| !matches!(element, Tree::Text(_))) {
        if element.value(&Properties::new()) == Ok(Thing::Number(Decimal::read(text).ok_or(Failed)?)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_like(pattern: &[char], escape: Option<char>, text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [first, second, rest @ ..] if Some(*first) == escape => text.first() == Some(second) && is_like(rest, escape, &text[1..]),
        ['%', rest @ ..] => (0..=text.len()).any(|taken| is_like(rest, escape, &text[taken..])),
        [first, rest @ ..] => text.first().is_some_and(|c| *first == '_' || first == c) && is_like(rest, escape, &text[1..]),
    }
}

/// Writes a tree as text, with choices that mean nothing made by `noise`.
struct Writer {
    out: String,
    noise: Box<dyn Iterator<Item = u8>>,
}

impl Writer {
    fn noise(&mut self) -> u8 {
        self.noise.next().unwrap_or_default()
    }

    fn token(&mut self, token: &str) {
        let may_touch = |c: Option<char>| c.is_some_and(|c| "()=<>,'\"".contains(c));
        let touch = may_touch(self.out.chars().last()) != may_touch(token.chars().next());
        let blank = match self.noise() % 12 {
            0..4 if touch => "",
            0..9 => " ",
            9 => "\r\n\t",
            10 => " /* 'x' -- * **/ ",
            _ => " -- it's /* \"\n",
        };
        self.out.push_str(blank);
        self.out.push_str(token);
    }

    fn word(&mut self, word: &str) {
        let cased: String = match self.noise() % 3 {
            0 => word.to_lowercase(),
            1 => word.chars().enumerate().map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect(),
            _ => word.to_owned(),
        };
        self.token(&cased);
    }

    fn not(&mut self, not: bool) {
        if not {
            self.word("NOT");
        }
    }

    fn text(&mut self, text: &str) {
        self.token(&format!("'{}'", text.replace('\'', "''")));
    }

    /// Writes a tree where at least this level is needed: 0 is OR, 1 AND, 2 equality, 3 comparison, 4 signs and NOT.
    fn tree(&mut self, tree: &Tree, needed: u8) {
        let level = match tree {
            Tree::Pair("OR", ..) => 0,
            Tree::Pair("AND", ..) => 1,
            Tree::Pair("=" | "<>" | "!=", ..) | Tree::IsNull(..) => 2,
            Tree::Pair(..) | Tree::Search(..) | Tree::Between(..) | Tree::In(..) | Tree::Like(..) => 3,
            Tree::Plus(_) | Tree::Minus(_) | Tree::Not(_) => 4,
            _ => 5,
        };
        let wrapped = level < needed || self.noise().is_multiple_of(8);
        if wrapped {
            self.token("(");
        }
        self.inside(tree, level);
        if wrapped {
            self.token(")");
        }
    }

    fn inside(&mut self, tree: &Tree, level: u8) {
        match tree {
            Tree::Null => self.word("NULL"),
            Tree::Bool(true) => self.word("TRUE"),
            Tree::Bool(false) => self.word("FALSE"),
            Tree::Number(number) => self.token(number),
            Tree::Text(text) => self.text(text),
            Tree::Name(name) if name.contains('-') || self.noise().is_multiple_of(4) => self.token(&format!("\"{name}\"")),
            Tree::Name(name) => self.token(name),
            Tree::Plus(inner) => self.signed("+", inner),
            Tree::Minus(inner) => self.signed("-", inner),
            Tree::Not(inner) => self.signed("NOT", inner),
            Tree::Pair(sign, left, right) => {
                self.tree(left, level);
                self.word(sign);
                self.tree(right, level + 1);
            }
            Tree::IsNull(inner, not) => {
                self.tree(inner, level);
                self.word("IS");
                self.not(*not);
                self.word("NULL");
            }
            Tree::Search(word, inner, text, not) => {
                self.tested(inner, *not, word);
                self.text(text);
            }
            Tree::Between(value, low, high, not) => {
                self.tested(value, *not, "BETWEEN");
                self.tree(low, 4);
                self.word("AND");
                self.tree(high, 4);
            }
            Tree::In(inner, list, not) => {
                self.tested(inner, *not, "IN");
                self.list(list);
            }
            Tree::Like(inner, pattern, escape, not) => {
                self.tested(inner, *not, "LIKE");
                self.text(pattern);
                if let Some(escape) = escape {
                    self.word("ESCAPE");
                    self.text(&escape.to_string());
                }
            }
        }
    }

    fn signed(&mut self, sign: &str, inner: &Tree) {
        self.word(sign);
        self.tree(inner, 4);
    }

    fn tested(&mut self, inner: &Tree, not: bool, word: &str) {
        self.tree(inner, 3);
        self.not(not);
        self.word(word);
    }

    fn list(&mut self, list: &[Tree]) {
        let mut before = "(";
        for element in list {
            self.token(before);
            match element {
                Tree::Minus(number) => {
                    self.token("-");
                    self.inside(number, 5);
                }
                plain => self.inside(plain, 5),
            }
            before = ",";
        }
        self.token(")");
    }
}

fn written(tree: &Tree, noise: Vec<u8>) -> String {
    let mut writer = Writer { out: String::new(), noise: Box::new(noise.into_iter().cycle()) };
    writer.tree(tree, 0);
    writer.out
}

const TEXTS: [&str; 24] = [
    "",
    "a",
    "ab",
    "abba",
    "b%",
    "it's",
    "true",
    "TRUE",
    "false",
    "5",
    "+5",
    "-5",
    "05",
    "5.0",
    " 5 ",
    "5e0",
    "2.5",
    "10",
    "9007199254740993",
    "99999999999999999999",
    "NaN",
    "0x5",
    "\u{e9}a",
    "5L",
];

fn boxed(tree: impl Strategy<Value = Tree>) -> impl Strategy<Value = Box<Tree>> {
    tree.prop_map(Box::new)
}

fn a_name() -> impl Strategy<Value = Tree> {
    select(vec!["a", "b", "c", "a-b"]).prop_map(Tree::Name)
}

fn a_number() -> impl Strategy<Value = Tree> {
    select(vec!["0", "5", "10", "2.5", "5.0", ".5e1", "9007199254740992", "9007199254740992.0", "9223372036854775807"]).prop_map(Tree::Number)
}

fn a_text() -> impl Strategy<Value = &'static str> {
    select(TEXTS.to_vec())
}

fn an_element() -> impl Strategy<Value = Tree> {
    prop_oneof![3 => a_text().prop_map(Tree::Text), 2 => a_number(), 1 => boxed(a_number()).prop_map(Tree::Minus)]
}

/// What a comparison makes sense of.
fn comparable() -> BoxedStrategy<Tree> {
    let plain = prop_oneof![a_name(), a_number()].boxed();
    prop_oneof![6 => plain.clone(), 1 => boxed(plain.clone()).prop_map(Tree::Minus), 1 => boxed(plain).prop_map(Tree::Plus)].boxed()
}

/// Conditions one step larger than these conditions and operands. Most make sense.
fn larger(condition: &BoxedStrategy<Tree>, operand: &BoxedStrategy<Tree>) -> BoxedStrategy<Tree> {
    let pair = |signs: &[&'static str], side: &BoxedStrategy<Tree>| {
        (select(signs.to_vec()), boxed(side.clone()), boxed(side.clone())).prop_map(|(sign, left, right)| Tree::Pair(sign, left, right))
    };
    let side = prop_oneof![30 => comparable(), 1 => operand.clone()].boxed();
    let name = prop_oneof![30 => a_name(), 1 => operand.clone()].boxed();
    let like = select(vec![("%", None), ("a%", None), ("_b%a", None), ("b!%", Some('!')), ("", None), ("%''%", Some('\''))]);
    let search = select(vec!["CONTAINS", "STARTSWITH", "ENDSWITH"]);
    prop_oneof![
        6 => pair(&["AND", "OR"], condition),
        2 => boxed(condition.clone()).prop_map(Tree::Not),
        3 => pair(&["=", "<>", "!="], operand),
        3 => pair(&["<", "<=", ">", ">="], &side),
        2 => (boxed(operand.clone()), any::<bool>()).prop_map(|(inner, not)| Tree::IsNull(inner, not)),
        2 => (search, boxed(operand.clone()), a_text(), any::<bool>()).prop_map(|(word, inner, text, not)| Tree::Search(word, inner, text, not)),
        2 => (boxed(side.clone()), boxed(side.clone()), boxed(side), any::<bool>()).prop_map(|(value, low, high, not)| Tree::Between(value, low, high, not)),
        2 => (boxed(name.clone()), proptest::collection::vec(an_element(), 1..4), any::<bool>()).prop_map(|(inner, list, not)| Tree::In(inner, list, not)),
        2 => (boxed(name), like, any::<bool>()).prop_map(|(inner, (pattern, escape), not)| Tree::Like(inner, pattern, escape, not)),
    ]
    .boxed()
}

fn a_tree() -> BoxedStrategy<Tree> {
    let constant = select(vec![Tree::Null, Tree::Bool(true), Tree::Bool(false)]);
    let mut condition = prop_oneof![2 => a_name(), 3 => constant].boxed();
    for _ in 0..5 {
        let operand = prop_oneof![
            8 => a_name(),
            4 => a_number(),
            3 => a_text().prop_map(Tree::Text),
            2 => condition.clone(),
            1 => boxed(comparable()).prop_map(Tree::Minus),
            1 => boxed(condition.clone()).prop_map(Tree::Minus),
        ]
        .boxed();
        condition = prop_oneof![1 => condition.clone(), 9 => larger(&condition, &operand)].boxed();
    }
    condition
}

fn a_message() -> impl Strategy<Value = Properties> {
    proptest::collection::btree_map(select(vec!["a", "b", "c", "a-b", "A"]), a_text(), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn parser_and_evaluation_agree_with_the_definition(
        tree in a_tree(),
        noise in proptest::collection::vec(any::<u8>(), 1..40),
        messages in proptest::collection::vec(a_message(), 1..6),
    ) {
        let text = written(&tree, noise);
        match Sql::parse(&text) {
            Err(error) => prop_assert!(!(tree.is_valid() && tree.is_condition()), "`{}`: {}", text, error),
            Ok(sql) => {
                prop_assert!(tree.is_valid() && tree.is_condition(), "`{}` was accepted", text);
                for message in &messages {
                    let answer = sql.program.evaluate(message).map_err(|_| Failed);
                    prop_assert_eq!(answer, tree.truth(message), "`{}` of {:?}", text, message);
                }
            }
        }
    }

    #[test]
    fn noise_does_not_change_what_an_expression_equals(tree in a_tree(), noise in proptest::collection::vec(3u8..12, 1..40)) {
        // Noise below 12 that is not 0 or 8 adds no parentheses, which do count.
        let noise: Vec<u8> = noise.into_iter().filter(|byte| *byte != 8).chain([3]).collect();
        if let (Ok(noisy), Ok(plain)) = (Sql::parse(&written(&tree, noise)), Sql::parse(&written(&tree, vec![3]))) {
            prop_assert_eq!(noisy, plain);
        }
    }
}
