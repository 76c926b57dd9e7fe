//! Reads an SQL92 filter expression, checks what can be checked without a message, and compiles it in the same pass.
//!
//! ```text
//! filter     = or
//! or         = and { OR and }
//! and        = equality { AND equality }
//! equality   = comparison { ("=" | "<>" | "!=") comparison | IS [NOT] NULL }
//! comparison = unary { (">" | ">=" | "<" | "<=") unary
//!                    | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text
//!                    | [NOT] BETWEEN unary AND unary
//!                    | [NOT] IN "(" element { "," element } ")"
//!                    | [NOT] LIKE text [ESCAPE text] }
//! unary      = ("+" | "-" | NOT) unary | primary
//! primary    = text | number | TRUE | FALSE | NULL | name | "(" or ")"
//! element    = text | ["+" | "-"] number
//! text       = 'any, with '' for a quote'
//! name       = [A-Za-z_$][A-Za-z0-9_$]* | "any, with "" for a quote"
//! number     = (0 | 1-9 [digits]) [L] | (digits . [digits] | . digits) [E [+-] digits] | digits E [+-] digits
//! ```
//!
//! Mind two consequences: `NOT a = 1` is `(NOT a) = 1`, and a minus before anything but a number gives NULL.
//!
//! What RocketMQ evaluates has the same result here. Language level 2 adds, where RocketMQ refuses or fails, and changes where noted:
//!
//! - numbers compare by value: property "10.5" is greater than 5, and no digit of a 64-bit integer is lost (a change beyond 2^53);
//! - `!=`, `LIKE` with `ESCAPE`, numbers in `IN`, names in double quotes, `-9223372036854775808`;
//! - `NOT CONTAINS`, `NOT STARTSWITH` and `NOT ENDSWITH` of a missing property are unknown (a change: RocketMQ says false);
//! - `TRUE = a` is the same as `a = TRUE`.
//!
//! Refused, although RocketMQ takes it: text behind the end of the expression, which RocketMQ leaves out without a word, and the odd
//! numbers in properties that `number` names. A `--` comment may end with the text. `LIKE` and `ESCAPE` are special only in their places,
//! so properties may have these names.

use super::lexer::{Keyword, Lexer, Symbol, Token};
use super::like::Pattern;
use super::number::Number;
use super::program::{Comparison, Form, List, Literal, Op, Program, Rule, Search};
use crate::filter::FilterError;
use crate::limits::FILTER_MAX;

/// Most literals, properties and operators of an expression.
pub const NODES_MAX: usize = 256;
/// How deep parentheses, signs and `NOT` may be nested. It bounds the parser's own stack as well.
pub const DEPTH_MAX: usize = 32;
/// Most elements of an `IN` list.
pub const IN_MAX: usize = 256;

/// What an expression compiles to, and its normal form: without comments and needless blanks, keywords in capitals.
pub fn compile(text: &str) -> Result<(Program, String), FilterError> {
    if text.len() > FILTER_MAX {
        return Err(FilterError(format!("SQL expression has {} bytes, the most allowed is {FILTER_MAX}", text.len())));
    }
    let mut parser = Parser { lexer: Lexer::new(text), token: Token::End, at: 0, normal: String::new(), ops: Vec::new(), nodes: 0, depth: 0 };
    parser.read()?;
    let whole = parser.disjunction()?;
    if parser.token != Token::End {
        return Err(parser.expected("an operator, AND, OR or the end"));
    }
    parser.condition(&whole)?;
    Ok((Program::new(parser.ops), parser.normal))
}

/// A part of the expression that has been read: the operations from `start` on compute it.
#[derive(Clone, Copy)]
struct Operand {
    kind: Kind,
    start: usize,
    /// The byte where it begins.
    at: usize,
}

/// What is known of an operand without a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Property,
    Text,
    Number(Number),
    Bool,
    Null,
    /// A sign before a number.
    Signed(Number),
    /// A minus before anything else.
    Senseless,
    Condition,
}

impl Kind {
    fn is_literal(self) -> bool {
        matches!(self, Kind::Text | Kind::Number(_) | Kind::Bool | Kind::Null)
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that comes next, and the byte where it begins.
    token: Token<'a>,
    at: usize,
    normal: String,
    ops: Vec<Op>,
    nodes: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn disjunction(&mut self) -> Result<Operand, FilterError> {
        let mut left = self.conjunction()?;
        while self.eat(Keyword::Or)? {
            let skip = self.skip_if(true, &left)?;
            let right = self.conjunction()?;
            left = self.join(left, right, skip, Rule::Or)?;
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Result<Operand, FilterError> {
        let mut left = self.equality()?;
        while self.eat(Keyword::And)? {
            let skip = self.skip_if(false, &left)?;
            let right = self.equality()?;
            left = self.join(left, right, skip, Rule::And)?;
        }
        Ok(left)
    }

    /// Leaves room for skipping the right side, if the left side settles the matter. The target comes with `join`.
    fn skip_if(&mut self, settles: bool, left: &Operand) -> Result<usize, FilterError> {
        self.condition(left)?;
        self.push(Op::Skip(settles, 0))?;
        Ok(self.ops.len() - 1)
    }

    fn join(&mut self, left: Operand, right: Operand, skip: usize, rule: Rule) -> Result<Operand, FilterError> {
        self.condition(&right)?;
        let joined = self.decide(left, rule)?;
        let end = self.ops.len();
        if let Op::Skip(_, target) = &mut self.ops[skip] {
            *target = end;
        }
        Ok(joined)
    }

    fn equality(&mut self) -> Result<Operand, FilterError> {
        let mut left = self.comparison()?;
        loop {
            let form = match self.token {
                Token::Symbol(Symbol::Equal) => Form::Plain,
                Token::Symbol(Symbol::NotEqual | Symbol::Differs) => Form::Negated,
                Token::Keyword(Keyword::Is) => {
                    left = self.is_null(left)?;
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.comparison()?;
            left = self.equal(left, right, form)?;
        }
    }

    fn is_null(&mut self, left: Operand) -> Result<Operand, FilterError> {
        self.advance()?;
        let form = self.form()?;
        match self.eat(Keyword::Null)? {
            true => self.decide(left, Rule::IsNull(form)),
            false => Err(self.expected("NULL or NOT NULL behind IS")),
        }
    }

    fn equal(&mut self, left: Operand, right: Operand, form: Form) -> Result<Operand, FilterError> {
        if let Some(null) = [left, right].iter().find(|side| side.kind == Kind::Null) {
            return Err(self.lexer.error(null.at, "nothing equals NULL; write IS NULL or IS NOT NULL"));
        }
        if left.kind == Kind::Bool && right.kind.is_literal() && right.kind != Kind::Bool {
            return Err(self.lexer.error(right.at, "TRUE and FALSE can't be compared with a text or a number"));
        }
        self.decide(left, Rule::Equal(form))
    }

    fn comparison(&mut self) -> Result<Operand, FilterError> {
        let mut left = self.unary()?;
        loop {
            let comparison = match self.token {
                Token::Symbol(Symbol::Less) => Comparison::Less,
                Token::Symbol(Symbol::LessOrEqual) => Comparison::LessOrEqual,
                Token::Symbol(Symbol::Greater) => Comparison::Greater,
                Token::Symbol(Symbol::GreaterOrEqual) => Comparison::GreaterOrEqual,
                _ => match self.test(left)? {
                    Some(tested) => {
                        left = tested;
                        continue;
                    }
                    None => return Ok(left),
                },
            };
            self.advance()?;
            let right = self.unary()?;
            left = self.compared(left, right, comparison)?;
        }
    }

    fn compared(&mut self, left: Operand, right: Operand, comparison: Comparison) -> Result<Operand, FilterError> {
        self.comparable(&left)?;
        self.comparable(&right)?;
        self.decide(left, Rule::Compare(comparison))
    }

    /// What may stand behind an operand, or behind an operand and NOT.
    fn test(&mut self, left: Operand) -> Result<Option<Operand>, FilterError> {
        let form = self.form()?;
        let tested = match self.token {
            Token::Keyword(Keyword::Contains) => self.search(left, form, Search::Contains),
            Token::Keyword(Keyword::StartsWith) => self.search(left, form, Search::StartsWith),
            Token::Keyword(Keyword::EndsWith) => self.search(left, form, Search::EndsWith),
            Token::Keyword(Keyword::Between) => self.between(left, form),
            Token::Keyword(Keyword::In) => self.in_list(left, form),
            Token::Word(word) if word.eq_ignore_ascii_case("LIKE") => self.like(left, form),
            _ if form == Form::Plain => return Ok(None),
            _ => Err(self.expected("IN, BETWEEN, LIKE, CONTAINS, STARTSWITH or ENDSWITH behind NOT")),
        };
        tested.map(Some)
    }

    fn search(&mut self, left: Operand, form: Form, search: Search) -> Result<Operand, FilterError> {
        self.advance()?;
        let text = self.text("a text in single quotes")?;
        if text.is_empty() {
            // Found nowhere, whatever stands on the left, and not counted as missing either.
            self.ops.truncate(left.start);
            self.push(Op::Literal(Literal::Bool(false)))?;
            return Ok(Operand { kind: Kind::Condition, ..left });
        }
        self.decide(left, Rule::Search(search, form, text))
    }

    fn between(&mut self, value: Operand, form: Form) -> Result<Operand, FilterError> {
        self.advance()?;
        let low = self.unary()?;
        if !self.eat(Keyword::And)? {
            return Err(self.expected("AND and the upper bound of BETWEEN"));
        }
        let high = self.unary()?;
        for side in [&value, &low, &high] {
            self.comparable(side)?;
        }
        match (form, low.kind, high.kind) {
            (Form::Plain, Kind::Number(least), Kind::Number(most)) if least.compare(most).is_gt() => {
                Err(self.lexer.error(low.at, "the lower bound of BETWEEN is above the upper one"))
            }
            _ => self.decide(value, Rule::Between(form)),
        }
    }

    fn in_list(&mut self, left: Operand, form: Form) -> Result<Operand, FilterError> {
        self.property_only(&left, "IN")?;
        self.advance()?;
        if !self.eat_symbol(Symbol::Open)? {
            return Err(self.expected("`(` and a list behind IN"));
        }
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        loop {
            if texts.len() + numbers.len() == IN_MAX {
                return Err(self.lexer.error(self.at, &format!("more than {IN_MAX} elements in the list of IN; split it with OR")));
            }
            match self.token {
                Token::Text(_) => texts.push(self.text("a text")?),
                _ => numbers.push(self.signed_number()?),
            }
            if self.eat_symbol(Symbol::Close)? {
                return self.decide(left, Rule::In(form, List::new(texts, numbers)));
            }
            if !self.eat_symbol(Symbol::Comma)? {
                return Err(self.expected("`,` or `)` in the list of IN"));
            }
        }
    }

    fn signed_number(&mut self) -> Result<Number, FilterError> {
        let number = if self.eat_symbol(Symbol::Minus)? {
            self.negative_number()?
        } else {
            self.eat_symbol(Symbol::Plus)?;
            self.number()?
        };
        number.ok_or_else(|| self.expected("a text in single quotes or a number in the list of IN"))
    }

    fn like(&mut self, left: Operand, form: Form) -> Result<Operand, FilterError> {
        self.property_only(&left, "LIKE")?;
        self.advance_word("LIKE")?;
        let at = self.at;
        let pattern = self.text("a pattern in single quotes")?;
        let escape = match self.token {
            Token::Word(word) if word.eq_ignore_ascii_case("ESCAPE") => {
                self.advance_word("ESCAPE")?;
                let at = self.at;
                let text = self.text("a character in single quotes")?;
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => Some(c),
                    _ => return Err(self.lexer.error(at, "ESCAPE takes one character")),
                }
            }
            _ => None,
        };
        match Pattern::new(&pattern, escape) {
            Some(pattern) => self.decide(left, Rule::Like(form, pattern)),
            None => Err(self.lexer.error(at, "the escape character stands before something else than `%`, `_` or itself")),
        }
    }

    fn unary(&mut self) -> Result<Operand, FilterError> {
        match self.token {
            Token::Symbol(Symbol::Plus) => self.positive(),
            Token::Symbol(Symbol::Minus) => self.negative(),
            Token::Keyword(Keyword::Not) => self.opposite(),
            Token::Symbol(Symbol::Open) => self.parenthesis(),
            _ => self.primary(),
        }
    }

    /// A plus changes nothing.
    fn positive(&mut self) -> Result<Operand, FilterError> {
        let at = self.at;
        self.advance()?;
        let operand = self.nested(Self::unary)?;
        Ok(Operand { at, ..operand })
    }

    fn opposite(&mut self) -> Result<Operand, FilterError> {
        let at = self.at;
        self.advance()?;
        let operand = self.nested(Self::unary)?;
        self.condition(&operand)?;
        self.decide(Operand { at, ..operand }, Rule::Not)
    }

    /// What a minus stands before: numbers change their sign here and now, all else is NULL, as in RocketMQ.
    fn negative(&mut self) -> Result<Operand, FilterError> {
        let (start, sign) = (self.ops.len(), self.at);
        self.advance()?;
        let at = self.at;
        let number = match self.negative_number()? {
            Some(number) => Some(number),
            None => {
                let operand = self.nested(Self::unary)?;
                self.ops.truncate(start);
                match operand.kind {
                    Kind::Number(number) | Kind::Signed(number) => Some(number.negated().ok_or_else(|| self.too_large(at))?),
                    _ => None,
                }
            }
        };
        self.push(Op::Literal(number.map_or(Literal::Null, Literal::Number)))?;
        Ok(Operand { kind: number.map_or(Kind::Senseless, Kind::Signed), start, at: sign })
    }

    fn primary(&mut self) -> Result<Operand, FilterError> {
        let (start, at) = (self.ops.len(), self.at);
        let (op, kind) = match self.token.clone() {
            Token::Word(name) => (Op::Property(name.into()), Kind::Property),
            Token::Quoted(name) => (Op::Property(name.into()), Kind::Property),
            Token::Text(text) => (Op::Literal(Literal::Text(text.into())), Kind::Text),
            Token::Keyword(Keyword::True) => (Op::Literal(Literal::Bool(true)), Kind::Bool),
            Token::Keyword(Keyword::False) => (Op::Literal(Literal::Bool(false)), Kind::Bool),
            Token::Keyword(Keyword::Null) => (Op::Literal(Literal::Null), Kind::Null),
            _ => {
                let number = self.number()?.ok_or_else(|| self.expected("a property, a text in single quotes, a number or `(`"))?;
                (Op::Literal(Literal::Number(number)), Kind::Number(number))
            }
        };
        if !matches!(kind, Kind::Number(_)) {
            self.advance()?;
        }
        self.push(op)?;
        Ok(Operand { kind, start, at })
    }

    fn parenthesis(&mut self) -> Result<Operand, FilterError> {
        let at = self.at;
        self.advance()?;
        let operand = self.nested(Self::disjunction)?;
        match self.eat_symbol(Symbol::Close)? {
            true => Ok(Operand { at, ..operand }),
            false => Err(self.expected("an operator, AND, OR or `)`")),
        }
    }

    /// A number without a sign, if one comes.
    fn number(&mut self) -> Result<Option<Number>, FilterError> {
        let number = match self.token {
            Token::Integer(integer) => Number::Integer(i64::try_from(integer).map_err(|_| self.too_large(self.at))?),
            Token::Float(float, _) => Number::Float(float),
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(number))
    }

    /// A number behind a minus, if one comes: the smallest integer has no other way to be written.
    fn negative_number(&mut self) -> Result<Option<Number>, FilterError> {
        let number = match self.token {
            Token::Integer(integer) => Number::Integer(0i64.checked_sub_unsigned(integer).ok_or_else(|| self.too_large(self.at))?),
            Token::Float(float, _) => Number::Float(-float),
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(number))
    }

    fn text(&mut self, what: &str) -> Result<Box<str>, FilterError> {
        let Token::Text(text) = &self.token else { return Err(self.expected(what)) };
        let text = text.as_ref().into();
        self.advance()?;
        Ok(text)
    }

    /// Whether a NOT comes, which is taken.
    fn form(&mut self) -> Result<Form, FilterError> {
        Ok(if self.eat(Keyword::Not)? { Form::Negated } else { Form::Plain })
    }

    /// Makes a condition of an operand that was read just now.
    fn condition(&mut self, operand: &Operand) -> Result<(), FilterError> {
        match operand.kind {
            Kind::Bool | Kind::Null | Kind::Condition => Ok(()),
            Kind::Property => self.push(Op::Decide(Rule::Truth)),
            Kind::Text | Kind::Number(_) | Kind::Signed(_) | Kind::Senseless => {
                Err(self.lexer.error(operand.at, "this is not a condition; compare it with something"))
            }
        }
    }

    /// Refuses what has no order.
    fn comparable(&self, operand: &Operand) -> Result<(), FilterError> {
        match operand.kind {
            Kind::Property | Kind::Number(_) | Kind::Signed(_) | Kind::Senseless => Ok(()),
            Kind::Text => Err(self.lexer.error(operand.at, "texts have no order; compare with a number, or use `=`")),
            Kind::Bool | Kind::Null | Kind::Condition => {
                Err(self.lexer.error(operand.at, "a condition has no order; compare properties and numbers"))
            }
        }
    }

    fn property_only(&self, operand: &Operand, operator: &str) -> Result<(), FilterError> {
        match operand.kind {
            Kind::Property => Ok(()),
            _ => Err(self.lexer.error(operand.at, &format!("only a property may stand before {operator}"))),
        }
    }

    /// Reads something that is nested in what is being read.
    fn nested(&mut self, read: fn(&mut Self) -> Result<Operand, FilterError>) -> Result<Operand, FilterError> {
        if self.depth == DEPTH_MAX {
            return Err(self.too_deep());
        }
        self.depth += 1;
        let operand = read(self);
        self.depth -= 1;
        operand
    }

    fn too_deep(&self) -> FilterError {
        self.lexer.error(self.at, &format!("parentheses, signs and NOT are nested deeper than {DEPTH_MAX}; write it flatter"))
    }

    fn decide(&mut self, left: Operand, rule: Rule) -> Result<Operand, FilterError> {
        self.push(Op::Decide(rule))?;
        Ok(Operand { kind: Kind::Condition, ..left })
    }

    fn push(&mut self, op: Op) -> Result<(), FilterError> {
        if op.is_node() {
            self.nodes += 1;
            if self.nodes > NODES_MAX {
                let what = format!("more than {NODES_MAX} literals, properties and operators; use IN for many values of one property");
                return Err(self.lexer.error(self.at, &what));
            }
        }
        self.ops.push(op);
        Ok(())
    }

    fn eat(&mut self, keyword: Keyword) -> Result<bool, FilterError> {
        self.eat_token(&Token::Keyword(keyword))
    }

    fn eat_symbol(&mut self, symbol: Symbol) -> Result<bool, FilterError> {
        self.eat_token(&Token::Symbol(symbol))
    }

    fn eat_token(&mut self, token: &Token) -> Result<bool, FilterError> {
        let comes = self.token == *token;
        if comes {
            self.advance()?;
        }
        Ok(comes)
    }

    fn advance(&mut self) -> Result<(), FilterError> {
        self.normal.push_str(&self.token.normal());
        self.normal.push(' ');
        self.read()
    }

    /// Goes on behind a word that is special in its place.
    fn advance_word(&mut self, word: &str) -> Result<(), FilterError> {
        self.normal.push_str(word);
        self.normal.push(' ');
        self.read()
    }

    fn read(&mut self) -> Result<(), FilterError> {
        (self.token, self.at) = self.lexer.next()?;
        Ok(())
    }

    fn expected(&self, what: &str) -> FilterError {
        self.lexer.error(self.at, &format!("expected {what}, found {}", self.token.found()))
    }

    fn too_large(&self, at: usize) -> FilterError {
        self.lexer.error(at, "the integer doesn't fit 64 bits; write it with a point")
    }
}
