//! Cuts the text of an expression into tokens. Blanks and comments (`-- to the end of the line` and `/* ... */`) only part them.

use crate::filter::FilterError;
use std::borrow::Cow;

/// Most characters of a token that a message shows.
const FOUND_MAX: usize = 40;

#[derive(Clone, Debug, PartialEq)]
pub enum Token<'a> {
    /// The name of a property, or one of the words that are special only in their places.
    Word(&'a str),
    /// The name of a property between double quotes.
    Quoted(Cow<'a, str>),
    Keyword(Keyword),
    Text(Cow<'a, str>),
    /// At most 2^63, which fits only behind a minus.
    Integer(u64),
    /// Finite and not zero; with its text.
    Float(f64, &'a str),
    Symbol(Symbol),
    End,
}

/// Declares words or signs with their spelling.
macro_rules! spelled {
    ($(#[$note:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$note])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            const ALL: &[$name] = &[$($name::$variant,)*];

            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

spelled! {
    /// Words that can't be names without quotes. Their case doesn't matter.
    Keyword {
        Not = "NOT",
        And = "AND",
        Or = "OR",
        Between = "BETWEEN",
        In = "IN",
        Is = "IS",
        Null = "NULL",
        True = "TRUE",
        False = "FALSE",
        Contains = "CONTAINS",
        StartsWith = "STARTSWITH",
        EndsWith = "ENDSWITH",
    }
}

spelled! {
    /// Of signs that begin alike, the longest comes first.
    Symbol {
        NotEqual = "<>",
        Differs = "!=",
        LessOrEqual = "<=",
        GreaterOrEqual = ">=",
        Less = "<",
        Greater = ">",
        Equal = "=",
        Plus = "+",
        Minus = "-",
        Open = "(",
        Close = ")",
        Comma = ",",
    }
}

impl Keyword {
    pub fn of(word: &str) -> Option<Keyword> {
        Keyword::ALL.iter().copied().find(|keyword| keyword.text().eq_ignore_ascii_case(word))
    }
}

impl Token<'_> {
    /// What a message says was found.
    pub fn found(&self) -> String {
        match self {
            Token::Word(word) => format!("`{word:.FOUND_MAX$}`"),
            Token::Quoted(name) => format!("`\"{}\"`", name.escape_debug().take(FOUND_MAX).collect::<String>()),
            Token::Keyword(keyword) => format!("`{}`", keyword.text()),
            Token::Text(_) => "a text".to_owned(),
            Token::Integer(integer) => format!("`{integer}`"),
            Token::Float(_, text) => format!("`{text:.FOUND_MAX$}`"),
            Token::Symbol(symbol) => format!("`{}`", symbol.text()),
            Token::End => "the end".to_owned(),
        }
    }

    /// How the token is written in the normal form of an expression.
    pub fn normal(&self) -> Cow<'_, str> {
        match self {
            Token::Word(word) => Cow::Borrowed(word),
            Token::Quoted(name) if is_word(name) && Keyword::of(name).is_none() => Cow::Borrowed(name),
            Token::Quoted(name) => Cow::Owned(format!("\"{}\"", name.replace('"', "\"\""))),
            Token::Keyword(keyword) => Cow::Borrowed(keyword.text()),
            Token::Text(text) => Cow::Owned(format!("'{}'", text.replace('\'', "''"))),
            Token::Integer(integer) => Cow::Owned(integer.to_string()),
            Token::Float(_, text) => Cow::Borrowed(text),
            Token::Symbol(Symbol::Differs) => Cow::Borrowed(Symbol::NotEqual.text()),
            Token::Symbol(symbol) => Cow::Borrowed(symbol.text()),
            Token::End => Cow::Borrowed(""),
        }
    }
}

fn is_word(name: &str) -> bool {
    name.starts_with(begins_word) && name.chars().all(continues_word)
}

fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$')
}

fn continues_word(c: char) -> bool {
    begins_word(c) || c.is_ascii_digit()
}

/// Reads tokens from the front of what is left.
pub struct Lexer<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// An error at a byte of the text. People count characters, from one.
    pub fn error(&self, at: usize, what: &str) -> FilterError {
        let column = self.text[..at].chars().count() + 1;
        FilterError(format!("SQL expression, column {column}: {what}"))
    }

    /// The next token, and the byte where it begins.
    pub fn next(&mut self) -> Result<(Token<'a>, usize), FilterError> {
        self.skip_blanks()?;
        let begin = self.at;
        let rest = &self.text[begin..];
        let token = match rest.chars().next() {
            None => Token::End,
            Some('\'') => Token::Text(self.quoted('\'', "text")?),
            Some('"') => match self.quoted('"', "name")? {
                name if name.is_empty() => return Err(self.error(begin, "a quoted name is empty; write the property's name between the quotes")),
                name => Token::Quoted(name),
            },
            Some(c) if begins_word(c) => {
                let word = self.take(continues_word);
                Keyword::of(word).map_or(Token::Word(word), Token::Keyword)
            }
            Some(c) if c.is_ascii_digit() || rest.starts_with('.') => self.number()?,
            Some(c) => match Symbol::ALL.iter().find(|symbol| rest.starts_with(symbol.text())) {
                Some(symbol) => {
                    self.at += symbol.text().len();
                    Token::Symbol(*symbol)
                }
                None => return Err(self.error(begin, &unknown(c))),
            },
        };
        Ok((token, begin))
    }

    fn skip_blanks(&mut self) -> Result<(), FilterError> {
        loop {
            self.take(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            let rest = &self.text[self.at..];
            if rest.starts_with("--") {
                self.take(|c| !matches!(c, '\n' | '\r'));
                continue;
            }
            let Some(comment) = rest.strip_prefix("/*") else { return Ok(()) };
            let end = comment.find("*/").ok_or_else(|| self.error(self.at, "the comment has no end; write `*/` behind it"))?;
            self.at += end + "/**/".len();
        }
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// What stands between quotes; a doubled quote is one of the text.
    fn quoted(&mut self, quote: char, what: &str) -> Result<Cow<'a, str>, FilterError> {
        let begin = self.at;
        self.at += 1;
        let mut whole = Cow::Borrowed("");
        loop {
            let part = self.take(|c| c != quote);
            if self.at == self.text.len() {
                return Err(self.error(begin, &format!("the {what} has no end; write {quote} behind it")));
            }
            self.at += 1;
            // Appending to nothing borrows.
            whole += part;
            if !self.text[self.at..].starts_with(quote) {
                return Ok(whole);
            }
            whole += &self.text[self.at..self.at + 1];
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Token<'a>, FilterError> {
        let begin = self.at;
        let digits = self.take(|c| c.is_ascii_digit()).len();
        let point = self.text[self.at..].starts_with('.');
        if point {
            self.at += 1;
            let decimals = self.take(|c| c.is_ascii_digit()).len();
            if digits + decimals == 0 {
                return Err(self.error(begin, "`.` is not a number; write a digit beside it, or quote a name that has a point: \"a.b\""));
            }
        }
        let exponent = self.exponent();
        let text = &self.text[begin..self.at];
        if point || exponent {
            return self.float(begin, text);
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(self.error(begin, "an integer begins with a zero; leave it out"));
        }
        if self.text[self.at..].starts_with(['l', 'L']) {
            self.at += 1;
        }
        match text.parse() {
            Ok(integer) if integer <= i64::MIN.unsigned_abs() => Ok(Token::Integer(integer)),
            _ => Err(self.error(begin, "the integer doesn't fit 64 bits; write it with a point")),
        }
    }

    fn float(&self, begin: usize, text: &'a str) -> Result<Token<'a>, FilterError> {
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() && float != 0.0 => Ok(Token::Float(float, text)),
            Ok(0.0) => Err(self.error(begin, "the number is zero, or too small for a double; write 0 for zero")),
            _ => Err(self.error(begin, "the number is too large for a double")),
        }
    }

    /// Takes an exponent if there is a whole one.
    fn exponent(&mut self) -> bool {
        let begin = self.at;
        if self.text[begin..].starts_with(['e', 'E']) {
            self.at += 1;
            if self.text[self.at..].starts_with(['+', '-']) {
                self.at += 1;
            }
            if !self.take(|c| c.is_ascii_digit()).is_empty() {
                return true;
            }
        }
        self.at = begin;
        false
    }
}

fn unknown(c: char) -> String {
    match c {
        '!' => "`!` has no meaning alone; write `!=` or NOT".to_owned(),
        '&' | '|' => format!("`{c}` has no meaning; write AND or OR"),
        '*' | '/' | '%' => format!("`{c}` has no meaning; there is no arithmetic in a filter"),
        _ => format!("`{}` has no meaning here; quote a name that is not of letters, digits, `_` and `$`: \"a-b\"", c.escape_debug()),
    }
}
