//! The language, rule by rule: what each expression says of one message, and what is refused where.

use super::*;
use crate::limits::FILTER_MAX;
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;

const TRUE: Result<Option<bool>, EvaluationError> = Ok(Some(true));
const FALSE: Result<Option<bool>, EvaluationError> = Ok(Some(false));
const UNKNOWN: Result<Option<bool>, EvaluationError> = Ok(None);
const NOT_A_NUMBER: Result<Option<bool>, EvaluationError> = Err(EvaluationError::NotANumber);
const TOO_MUCH: Result<Option<bool>, EvaluationError> = Err(EvaluationError::TooMuchWork);

struct Given(HashMap<&'static str, String>);

impl Properties for Given {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// The one message of these tests. It has no `m` and no `m2`.
fn message() -> Given {
    let long = "a".repeat(16 * 1024);
    let properties = [
        ("a", "abc"),
        ("n", "10"),
        ("d", "10.5"),
        ("t", "true"),
        ("T", "TRUE"),
        ("f", "no"),
        ("e", ""),
        ("big", "9007199254740993"),
        ("huge", "99999999999999999999"),
        ("blank", " 10 "),
        ("nan", "NaN"),
        ("infinite", "Infinity"),
        ("hex", "0x1p3"),
        ("quote", "it's"),
        ("like", "x"),
        ("escape", "y"),
        ("a-b", "dash"),
        ("and", "word"),
        ("$_1", "odd"),
        ("percent", "50%"),
        ("TAGS", "TagA"),
        ("KEYS", "k1 k2"),
        ("long", &long),
    ];
    Given(properties.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
}

fn check(cases: &[(&str, Result<Option<bool>, EvaluationError>)]) {
    let message = message();
    for (expression, expected) in cases {
        let sql = Sql::parse(expression).unwrap_or_else(|error| panic!("`{expression}`: {error}"));
        assert_eq!(sql.program.evaluate(&message), *expected, "`{expression}`");
        let verdict = match expected {
            Ok(answer) => Verdict::from(*answer == Some(true)),
            Err(error) => Verdict::Error(*error),
        };
        assert_eq!(sql.matches(&message), verdict, "`{expression}`");
    }
}

/// Each expression with the column of its mistake and a piece of what is said about it.
fn refused(cases: &[(&str, usize, &str)]) {
    for (expression, column, piece) in cases {
        let Err(FilterError(said)) = Sql::parse(expression) else { panic!("`{expression}` was accepted") };
        assert!(said.starts_with(&format!("SQL expression, column {column}: ")), "`{expression}`: {said}");
        assert!(said.contains(piece), "`{expression}`: {said}");
    }
}

#[test]
fn and_or_and_not_know_three_values() {
    check(&[
        ("TRUE AND TRUE", TRUE),
        ("TRUE AND FALSE", FALSE),
        ("FALSE AND NULL", FALSE),
        ("NULL AND FALSE", FALSE),
        ("TRUE AND NULL", UNKNOWN),
        ("NULL AND TRUE", UNKNOWN),
        ("NULL AND NULL", UNKNOWN),
        ("FALSE OR FALSE", FALSE),
        ("TRUE OR NULL", TRUE),
        ("NULL OR TRUE", TRUE),
        ("FALSE OR NULL", UNKNOWN),
        ("NULL OR FALSE", UNKNOWN),
        ("NULL OR NULL", UNKNOWN),
        ("NOT TRUE", FALSE),
        ("NOT FALSE", TRUE),
        ("NOT NULL", UNKNOWN),
    ]);
}

#[test]
fn operators_bind_from_or_to_not() {
    check(&[
        ("TRUE OR TRUE AND FALSE", TRUE),
        ("(TRUE OR TRUE) AND FALSE", FALSE),
        ("FALSE AND FALSE OR TRUE", TRUE),
        // Not the opposite of `n = 10`, but a condition that is compared with a number.
        ("NOT n = 10", FALSE),
        ("NOT (n = 10)", FALSE),
        ("NOT (n = 11)", TRUE),
        ("n = 10 = TRUE", TRUE),
        ("n = 11 = FALSE", TRUE),
        ("n = n = n", FALSE),
        ("TRUE = n > 5", TRUE),
        ("n > 5 = TRUE AND TRUE", TRUE),
        ("n BETWEEN 1 AND 20 AND TRUE", TRUE),
        ("m IS NULL = TRUE", TRUE),
        ("m = 1 IS NULL", TRUE),
        ("n IS NULL IS NULL", FALSE),
        ("NOT NOT TRUE", TRUE),
        ("((((n)))) = ((10))", TRUE),
    ]);
}

#[test]
fn what_the_left_side_settles_is_not_looked_at_on_the_right() {
    check(&[
        ("FALSE AND a > 5", FALSE),
        ("TRUE OR a > 5", TRUE),
        ("NULL AND a > 5", NOT_A_NUMBER),
        ("TRUE AND a > 5", NOT_A_NUMBER),
        ("a > 5 OR TRUE", NOT_A_NUMBER),
        ("a > 5 IS NULL", NOT_A_NUMBER),
        ("FALSE AND a > 5 OR FALSE AND a > 5", FALSE),
        ("FALSE AND (TRUE OR a > 5) OR TRUE AND (FALSE OR n = 10)", TRUE),
    ]);
}

#[test]
fn equality_of_missing_properties_is_lopsided() {
    check(&[
        ("m = 1", UNKNOWN),
        ("m = 'x'", UNKNOWN),
        ("m = TRUE", UNKNOWN),
        ("m = n", UNKNOWN),
        ("1 = m", FALSE),
        ("n = m", FALSE),
        ("m = m2", TRUE),
        ("m <> 1", UNKNOWN),
        ("1 <> m", TRUE),
        ("n <> m", TRUE),
        ("m <> m2", FALSE),
    ]);
}

#[test]
fn equal_things_are_equal_by_the_type_of_the_other_side() {
    check(&[
        ("a = 'abc'", TRUE),
        ("a = 'ABC'", FALSE),
        ("a <> 'abc'", FALSE),
        ("'abc' = a", TRUE),
        ("e = ''", TRUE),
        ("n = 10", TRUE),
        ("10 = n", TRUE),
        ("n = 10L", TRUE),
        ("n = '10'", TRUE),
        ("n = 10.0", TRUE),
        ("n = '10.0'", FALSE),
        ("n = blank", FALSE),
        ("n = n", TRUE),
        ("a = 1", NOT_A_NUMBER),
        ("a <> 1", NOT_A_NUMBER),
        ("1 = a", NOT_A_NUMBER),
        ("'abc' = 5", NOT_A_NUMBER),
        ("'5' = 5", TRUE),
        ("5 = 5.0", TRUE),
        ("t = TRUE", TRUE),
        ("T = TRUE", TRUE),
        ("f = TRUE", FALSE),
        ("f = FALSE", TRUE),
        ("t <> FALSE", TRUE),
        ("TRUE = t", TRUE),
        ("(n = 10) = t", TRUE),
        ("'true' = TRUE", TRUE),
        ("5 = TRUE", FALSE),
        ("TRUE = TRUE", TRUE),
        ("TRUE = FALSE", FALSE),
    ]);
}

#[test]
fn is_null_is_never_unknown() {
    check(&[
        ("m IS NULL", TRUE),
        ("m IS NOT NULL", FALSE),
        ("n IS NULL", FALSE),
        ("n IS NOT NULL", TRUE),
        ("e IS NULL", FALSE),
        ("5 IS NULL", FALSE),
        ("NULL IS NULL", TRUE),
        ("(m = 1) IS NULL", TRUE),
    ]);
}

#[test]
fn a_bare_property_is_never_true() {
    check(&[("t", FALSE), ("m", UNKNOWN), ("NOT t", TRUE), ("NOT m", UNKNOWN), ("t OR TRUE", TRUE), ("t AND m", FALSE), ("m AND t", FALSE)]);
}

#[test]
fn comparisons_are_of_numbers_by_value() {
    check(&[
        ("n > 9", TRUE),
        ("n > 10", FALSE),
        ("n >= 10", TRUE),
        ("n < 11", TRUE),
        ("n < 10", FALSE),
        ("n <= 10", TRUE),
        ("9 < n", TRUE),
        ("n > -5", TRUE),
        ("n < 3000000000", TRUE),
        ("d > 5", TRUE),
        ("d > 10", TRUE),
        ("d < 11", TRUE),
        ("n > 9.5", TRUE),
        ("d > n", TRUE),
        ("n >= blank", TRUE),
        ("5 > 3", TRUE),
        ("big > 9007199254740992", TRUE),
        ("big > 9007199254740992.0", TRUE),
        ("big = 9007199254740992.0", FALSE),
        ("huge > 9223372036854775807", TRUE),
        ("n > -9223372036854775808", TRUE),
        ("m > 5", UNKNOWN),
        ("5 > m", UNKNOWN),
        ("m > a", UNKNOWN),
        ("a > m", UNKNOWN),
        ("a > 5", NOT_A_NUMBER),
        ("e > 5", NOT_A_NUMBER),
        ("a > n", NOT_A_NUMBER),
        ("a > a", NOT_A_NUMBER),
        ("nan > 5", NOT_A_NUMBER),
        ("nan > 5.5", NOT_A_NUMBER),
        ("infinite > 5.5", NOT_A_NUMBER),
        ("hex > 5.5", NOT_A_NUMBER),
    ]);
}

#[test]
fn a_minus_gives_null_unless_it_stands_before_a_number() {
    check(&[
        ("n > - 5", TRUE),
        ("n > -(5)", TRUE),
        ("n = - -10", TRUE),
        ("n > -.5e1", TRUE),
        ("n = +10", TRUE),
        ("+n = 10", TRUE),
        ("n = -n", FALSE),
        ("m = -n", TRUE),
        ("-n = 1", UNKNOWN),
        ("n > -n", UNKNOWN),
        ("n > -'x'", UNKNOWN),
        ("-(a > 5) IS NULL", TRUE),
        ("-TRUE IS NULL", TRUE),
    ]);
}

#[test]
fn between_is_two_comparisons() {
    check(&[
        ("n BETWEEN 10 AND 11", TRUE),
        ("n BETWEEN 9 AND 10", TRUE),
        ("n BETWEEN 11 AND 12", FALSE),
        ("n BETWEEN 1 AND 9.5", FALSE),
        ("n NOT BETWEEN 1 AND 9", TRUE),
        ("n NOT BETWEEN 9 AND 11", FALSE),
        // An empty range is refused only when it is said plainly.
        ("n NOT BETWEEN 11 AND 9", TRUE),
        ("n BETWEEN -5 AND -10", FALSE),
        ("5 BETWEEN 1 AND n", TRUE),
        ("m BETWEEN 1 AND 2", UNKNOWN),
        ("m NOT BETWEEN 1 AND 2", UNKNOWN),
        ("n BETWEEN m AND 9", FALSE),
        ("n BETWEEN m AND 11", UNKNOWN),
        ("n BETWEEN 11 AND m", FALSE),
        ("n BETWEEN 9 AND m", UNKNOWN),
        ("n NOT BETWEEN 11 AND m", TRUE),
        ("n NOT BETWEEN m AND 9", TRUE),
        ("n NOT BETWEEN m AND 11", UNKNOWN),
        ("n BETWEEN 11 AND a", FALSE),
        ("n BETWEEN 9 AND a", NOT_A_NUMBER),
        ("a BETWEEN 1 AND 2", NOT_A_NUMBER),
    ]);
}

#[test]
fn in_looks_for_texts_and_for_numbers() {
    check(&[
        ("a IN ('abc')", TRUE),
        ("a IN ('x', 'abc', 'b')", TRUE),
        ("a IN ('x')", FALSE),
        ("a NOT IN ('x')", TRUE),
        ("a NOT IN ('abc', 'abc')", FALSE),
        ("m IN ('x')", UNKNOWN),
        ("m NOT IN ('x')", UNKNOWN),
        ("(+a) IN ('abc')", TRUE),
        ("n IN (1, 10)", TRUE),
        ("n IN (10.0)", TRUE),
        ("d IN (-1, +10.5)", TRUE),
        ("n NOT IN (1, 2)", TRUE),
        ("n IN ('x', 10)", TRUE),
        ("a IN ('abc', 10)", TRUE),
        ("a IN ('x', 10)", NOT_A_NUMBER),
        ("m IN (1)", UNKNOWN),
        ("n IN ('10.0')", FALSE),
        ("TAGS IN ('TagA', 'TagB')", TRUE),
    ]);
}

#[test]
fn searches_in_texts_find_nothing_in_what_is_missing() {
    check(&[
        ("a CONTAINS 'b'", TRUE),
        ("a CONTAINS 'x'", FALSE),
        ("a NOT CONTAINS 'x'", TRUE),
        ("a NOT CONTAINS 'b'", FALSE),
        ("a STARTSWITH 'ab'", TRUE),
        ("a STARTSWITH 'b'", FALSE),
        ("a NOT STARTSWITH 'b'", TRUE),
        ("a ENDSWITH 'bc'", TRUE),
        ("a ENDSWITH 'b'", FALSE),
        ("a NOT ENDSWITH 'b'", TRUE),
        ("a CONTAINS 'abcd'", FALSE),
        ("m CONTAINS 'b'", FALSE),
        ("m STARTSWITH 'b'", FALSE),
        ("m ENDSWITH 'b'", FALSE),
        ("m NOT CONTAINS 'b'", UNKNOWN),
        ("m NOT STARTSWITH 'b'", UNKNOWN),
        ("m NOT ENDSWITH 'b'", UNKNOWN),
        ("a CONTAINS ''", FALSE),
        ("a NOT CONTAINS ''", FALSE),
        ("m NOT STARTSWITH ''", FALSE),
        ("(a > 5) ENDSWITH ''", FALSE),
        ("TRUE AND (TRUE AND a > 5) CONTAINS '' OR n = 10", TRUE),
        ("5 CONTAINS '5'", FALSE),
        ("5 NOT CONTAINS '5'", FALSE),
        ("TRUE CONTAINS 'T'", FALSE),
        ("'abc' CONTAINS 'b'", TRUE),
        ("KEYS CONTAINS 'k2'", TRUE),
    ]);
}

#[test]
fn like_compares_with_a_pattern() {
    check(&[
        ("a LIKE 'a%'", TRUE),
        ("a like 'a_c'", TRUE),
        ("a LIKE 'b%'", FALSE),
        ("a NOT LIKE 'b%'", TRUE),
        ("a NOT LIKE 'a%'", FALSE),
        ("e LIKE ''", TRUE),
        ("e LIKE '%'", TRUE),
        ("m LIKE '%'", UNKNOWN),
        ("m NOT LIKE 'a'", UNKNOWN),
        ("percent LIKE '50!%' ESCAPE '!'", TRUE),
        ("n LIKE '10!%' escape '!'", FALSE),
        ("a LIKE 'a%' AND n = 10", TRUE),
    ]);
}

#[test]
fn names_and_texts_hold_what_their_quotes_allow() {
    check(&[
        ("quote = 'it''s'", TRUE),
        ("e = ''", TRUE),
        ("quote = ''''", FALSE),
        ("a <> 'line\nbreak /* no comment */ -- none'", TRUE),
        ("\"a-b\" = 'dash'", TRUE),
        ("\"and\" = 'word'", TRUE),
        ("\"n\" = 10", TRUE),
        ("\"in\"\"ner\" IS NULL", TRUE),
        ("$_1 = 'odd'", TRUE),
        ("N IS NULL", TRUE),
        // These two words are special behind an operand only.
        ("like = 'x' AND escape = 'y'", TRUE),
        ("like LIKE 'x' AND like LIKE 'x' ESCAPE 'y'", TRUE),
    ]);
}

#[test]
fn blanks_comments_and_case_do_not_matter() {
    check(&[
        ("n=10and a='abc'", TRUE),
        (" \t\r\n\x0cn\n=\n10 ", TRUE),
        ("n /* ten * / ' */ = 10", TRUE),
        ("n /**/=/***/10", TRUE),
        ("n = -- ten\n 10", TRUE),
        ("n = 10 -- and no more", TRUE),
        ("n Between 1 aNd 20", TRUE),
        ("n is Not nULL", TRUE),
        ("a startsWith 'a' And Not (m Contains 'x')", TRUE),
        ("tRuE", TRUE),
        ("a in('abc')or a not in('x')", TRUE),
    ]);
}

#[test]
fn integers_of_64_bits_and_doubles_are_accepted_and_nothing_beyond() {
    check(&[
        ("0 = 0L", TRUE),
        ("n < 9223372036854775807", TRUE),
        ("n < 9223372036854775807l", TRUE),
        ("n > -9223372036854775808", TRUE),
        ("n < 9223372036854775808.0", TRUE),
        ("n = 1.e1", TRUE),
        ("n = .1E+2", TRUE),
        ("n = 100e-1", TRUE),
        ("n = 0010.0", TRUE),
        ("n > 1e-320", TRUE),
        ("n < 1.7976931348623157e308", TRUE),
    ]);
    refused(&[
        ("n < 9223372036854775808", 5, "64 bits"),
        ("n < 99999999999999999999", 5, "64 bits"),
        ("n > -9223372036854775809", 6, "64 bits"),
        ("n > -(-9223372036854775808)", 6, "64 bits"),
        ("n > +9223372036854775808", 6, "64 bits"),
        ("n IN (1, 9223372036854775808)", 10, "64 bits"),
        ("n = 010", 5, "zero"),
        ("n = 00", 5, "zero"),
        ("n = 0.0", 5, "write 0"),
        ("n = 1e-400", 5, "write 0"),
        ("n = 1e400", 5, "too large"),
        ("n = 0x10", 6, "expected"),
        ("n = 1_000", 6, "expected"),
        ("n = 5e", 6, "expected"),
        ("n = .", 5, "not a number"),
    ]);
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    refused(&[
        ("", 1, "found the end"),
        ("  ", 3, "found the end"),
        ("a =", 4, "expected a property, a text in single quotes, a number or `(`, found the end"),
        ("a = )", 5, "found `)`"),
        ("a = 1 b = 2", 7, "expected an operator, AND, OR or the end, found `b`"),
        ("a = 1 2", 7, "found `2`"),
        ("(a = 1", 7, "expected an operator, AND, OR or `)`, found the end"),
        ("a = 1)", 6, "found `)`"),
        ("()", 2, "found `)`"),
        ("a AND", 6, "found the end"),
        ("AND a", 1, "found `AND`"),
        ("a IS 5", 6, "NULL or NOT NULL behind IS, found `5`"),
        ("a IS NOT", 9, "NULL or NOT NULL"),
        ("a NOT = 1", 7, "behind NOT, found `=`"),
        ("a NOT NULL", 7, "behind NOT"),
        ("a BETWEEN 1 OR 2", 13, "AND and the upper bound"),
        ("a IN 'x'", 6, "`(` and a list"),
        ("a IN ()", 7, "found `)`"),
        ("a IN ('x',)", 11, "found `)`"),
        ("a IN ('x' 'y')", 11, "`,` or `)`"),
        ("a IN (TRUE)", 7, "found `TRUE`"),
        ("a IN (-'x')", 8, "found a text"),
        ("a IN (b)", 7, "found `b`"),
        ("a CONTAINS b", 12, "a text in single quotes, found `b`"),
        ("a STARTSWITH 5", 14, "a text in single quotes, found `5`"),
        ("a LIKE b", 8, "a pattern"),
        ("a LIKE 'x' ESCAPE 'ab'", 19, "one character"),
        ("a LIKE 'x' ESCAPE ''", 19, "one character"),
        ("a LIKE 'x!y' ESCAPE '!'", 8, "escape character"),
        ("a = 'x", 5, "has no end"),
        ("a = 'x''", 5, "has no end"),
        ("\"a = 1", 1, "has no end"),
        ("\"\" = 1", 1, "empty"),
        ("a /* = 1", 3, "has no end"),
        ("a /*/ = 1", 3, "has no end"),
        ("a-b = 1", 2, "found `-`"),
        ("a.b = 1", 2, "not a number"),
        ("a == 1", 4, "found `=`"),
        ("a = \"\u{e9}\" \u{1f600}", 9, "has no meaning"),
        ("\u{e9} = 1", 1, "quote a name"),
        ("a & b", 3, "AND or OR"),
        ("a ! b", 3, "`!=` or NOT"),
        ("a + 1 = 2", 3, "found `+`"),
        ("a * 2 = 4", 3, "arithmetic"),
        ("a =\u{a0}1", 4, "has no meaning"),
    ]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    refused(&[
        ("5", 1, "not a condition"),
        ("'x'", 1, "not a condition"),
        ("-5", 1, "not a condition"),
        ("-a", 1, "not a condition"),
        ("(a = 1) AND 'x'", 13, "not a condition"),
        ("5 OR a", 1, "not a condition"),
        ("a OR +5", 6, "not a condition"),
        ("NOT 5", 5, "not a condition"),
        ("NOT -a", 5, "not a condition"),
        ("a = NULL", 5, "IS NULL"),
        ("NULL <> a", 1, "IS NULL"),
        ("a = (NULL)", 5, "IS NULL"),
        ("a != +NULL", 6, "IS NULL"),
        ("TRUE = 'true'", 8, "TRUE and FALSE"),
        ("FALSE <> 5", 10, "TRUE and FALSE"),
        ("a > 'x'", 5, "texts have no order"),
        ("'x' < a", 1, "texts have no order"),
        ("a >= TRUE", 6, "a condition has no order"),
        ("a <= NULL", 6, "a condition has no order"),
        ("a > (b = 1)", 5, "a condition has no order"),
        ("1 < a < 5", 1, "a condition has no order"),
        ("a BETWEEN 'a' AND 'b'", 11, "texts have no order"),
        ("a BETWEEN 1 AND TRUE", 17, "a condition has no order"),
        ("a NOT BETWEEN NULL AND 1", 15, "a condition has no order"),
        ("TRUE BETWEEN 1 AND 2", 1, "a condition has no order"),
        ("a BETWEEN 2 AND 1", 11, "lower bound"),
        ("a BETWEEN 1.5 AND 1", 11, "lower bound"),
        ("5 IN ('5')", 1, "only a property"),
        ("-a IN ('5')", 1, "only a property"),
        ("(a = 1) NOT IN ('5')", 1, "only a property"),
        ("'a' LIKE 'a'", 1, "only a property"),
    ]);
    // RocketMQ looks at the left side only.
    check(&[("'true' <> TRUE", FALSE), ("5 <> TRUE", TRUE), ("TRUE = -5", FALSE)]);
}

fn accepted_up_to(limit: usize, make: impl Fn(usize) -> String, piece: &str) {
    let at_limit = make(limit);
    assert!(at_limit.len() <= FILTER_MAX);
    if let Err(error) = Sql::parse(&at_limit) {
        panic!("{limit}: {error}");
    }
    let Err(FilterError(said)) = Sql::parse(&make(limit + 1)) else { panic!("{} were accepted", limit + 1) };
    assert!(said.contains(piece) && said.contains(&limit.to_string()), "{said}");
}

#[test]
fn limits_hold_and_what_is_at_a_limit_passes() {
    accepted_up_to(FILTER_MAX, |bytes| format!("{:bytes$}", "n = 10"), "bytes");
    accepted_up_to(DEPTH_MAX, |depth| format!("{}n = 10{}", "(".repeat(depth), ")".repeat(depth)), "nested deeper");
    accepted_up_to(DEPTH_MAX, |depth| format!("{}n", "NOT ".repeat(depth)), "nested deeper");
    accepted_up_to(DEPTH_MAX, |depth| format!("n = {}1", "+".repeat(depth)), "nested deeper");
    accepted_up_to(DEPTH_MAX, |depth| format!("n = {}n", "- ".repeat(depth)), "nested deeper");
    accepted_up_to(IN_MAX, |elements| format!("n IN (1{})", ",'x'".repeat(elements - 1)), "elements");
    // One property, and a NOT for each further node, in two terms so that nothing gets deep.
    let nots = |nodes: usize| format!("n{}{}", " OR n".repeat((nodes - 1) / 2), " IS NULL".repeat((nodes - 1) % 2));
    accepted_up_to(NODES_MAX, nots, "operators");
}

#[test]
fn the_largest_expressions_are_evaluated_within_the_steps() {
    let many = format!("n{}", " AND n".repeat(NODES_MAX / 2 - 1));
    let high = format!("{}n = 10{}", "FALSE OR TRUE AND TRUE = (".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
    check(&[(&many, FALSE), (&high, TRUE)]);
}

#[test]
fn searching_long_texts_uses_up_the_steps() {
    let searches = |count: usize| format!("long CONTAINS 'b'{}", " OR long CONTAINS 'b'".repeat(count - 1));
    let compares = |count: usize| format!("long <> 'b'{}", " AND long <> 'b'".repeat(count - 1));
    check(&[
        (&searches(27), FALSE),
        (&searches(28), TOO_MUCH),
        // Texts that differ in length cost nothing.
        (&compares(64), TRUE),
        ("long > 5", NOT_A_NUMBER),
        ("long LIKE 'a%a'", TRUE),
        (&format!("long LIKE '%{}b%'", "a".repeat(200)), TOO_MUCH),
    ]);
}

#[test]
fn expressions_that_differ_in_spelling_only_are_equal() {
    let parse = |text: &str| Sql::parse(text).unwrap_or_else(|error| panic!("`{text}`: {error}"));
    let same = ["a IN ('x',1) AND b<>5", " a in ( 'x' , 1L )\n and/**/ \"b\" != 5 -- five", "a In('x',1)aNd b <> 5"];
    for text in same {
        assert_eq!(parse(text), parse(same[0]), "`{text}`");
        assert_eq!(parse(text).cmp(&parse(same[0])), Ordering::Equal, "`{text}`");
        assert_eq!(parse(text).source(), text);
    }
    let different =
        ["a = 'b'", "a = 'B'", "A = 'b'", "a = b", "\"a \" = 'b'", "a = 'b '", "a = 'b''c'", "\"like\" LIKE 'b'", "\"and\" = 1", "a = 1.0", "a = 1"];
    for (i, left) in different.iter().enumerate() {
        for right in &different[i + 1..] {
            assert_ne!(parse(left), parse(right), "`{left}` and `{right}`");
        }
    }
    assert_eq!(parse("\"like\" LIKE 'x'"), parse("like like 'x'"));
}

#[test]
fn a_small_stack_is_enough_for_the_deepest_expression() {
    let deepest = [
        "(".repeat(FILTER_MAX),
        "NOT ".repeat(FILTER_MAX / 4),
        "- ".repeat(FILTER_MAX / 2),
        "+".repeat(FILTER_MAX),
        "-(NOT ".repeat(FILTER_MAX / 6),
        "n OR n AND n = n > (".repeat(FILTER_MAX / 20),
        "a IN (".repeat(FILTER_MAX / 6),
        "a BETWEEN (".repeat(FILTER_MAX / 11),
        "(a)".repeat(FILTER_MAX / 3),
    ];
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let parsing = small.spawn(move || deepest.iter().filter(|text| Sql::parse(text).is_ok()).count());
    assert_eq!(parsing.expect("a thread starts").join().expect("no panic and no overflow"), 0);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        drop(Sql::parse(&text).map(|sql| sql.matches(&message())));
    }

    #[test]
    fn no_order_of_tokens_makes_parser_or_evaluation_panic(tokens in proptest::collection::vec(token(), 0..60)) {
        drop(Sql::parse(&tokens.concat()).map(|sql| sql.matches(&message())));
    }

    #[test]
    fn no_cut_or_changed_byte_makes_the_parser_panic(cut in 0usize..200, at in 0usize..200, byte: u8) {
        let text = "(a LIKE 'x!%' ESCAPE '!' OR n NOT BETWEEN -5 AND .5e-3) AND \"q\"\"q\" IN ('it''s', -1L) /* c */ IS NOT NULL -- end\n AND NOT m <> 5.";
        let mut bytes = text.as_bytes()[..cut.min(text.len())].to_vec();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        drop(Sql::parse(&String::from_utf8_lossy(&bytes)).map(|sql| sql.matches(&message())));
    }
}

fn token() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "a ",
        "n ",
        "m ",
        "5 ",
        "-9223372036854775808 ",
        "1e300 ",
        ".5 ",
        "'x' ",
        "'' ",
        "\"a-b\" ",
        "TRUE ",
        "FALSE ",
        "NULL ",
        "NOT ",
        "AND ",
        "OR ",
        "BETWEEN ",
        "IN ",
        "IS ",
        "CONTAINS ",
        "STARTSWITH ",
        "LIKE ",
        "ESCAPE '!' ",
        "=",
        "<>",
        "!=",
        "<",
        ">=",
        "+",
        "-",
        "(",
        ")",
        ",",
        "--\n",
        "/**/",
        "'",
        "\"",
        "\u{e9}",
    ])
}
