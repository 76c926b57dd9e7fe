//! Where a command reads and writes: data to `out`, everything else to `err`. Tests put buffers here.

use crate::failure::{Exit, Failure};
use crate::global::{Global, OutputFormat};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

/// Input and outputs of a command.
pub struct Terminal {
    /// Data.
    pub out: Box<dyn Write + Send>,
    /// Messages, progress, questions.
    pub err: Box<dyn Write + Send>,
    pub input: Box<dyn AsyncBufRead + Send + Unpin>,
    /// A person sits at the input and can answer questions.
    pub input_is_person: bool,
    /// A person watches `err`, so progress is welcome.
    pub err_is_person: bool,
}

impl Terminal {
    /// The terminal or the pipes that the process was started with.
    pub fn process() -> Terminal {
        Terminal {
            out: Box::new(io::BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            input: Box::new(BufReader::new(tokio::io::stdin())),
            input_is_person: io::stdin().is_terminal(),
            err_is_person: io::stderr().is_terminal(),
        }
    }

    /// The next line of the input without its end; none at the end of the input.
    pub async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        if self.input.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
        }
        Ok(Some(line))
    }

    /// Says something that is not data.
    pub fn note(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.err, "{}", text.as_ref())
    }

    /// Rewrites the progress line of a person who watches.
    pub fn progress(&mut self, text: &str) -> io::Result<()> {
        if self.err_is_person {
            write!(self.err, "\r\x1b[2K{text}")?;
            self.err.flush()?;
        }
        Ok(())
    }

    /// Asks before something is destroyed. Without a person only an explicit yes counts.
    pub async fn confirm(&mut self, plan: &str, yes: Confirmed) -> Result<(), Failure> {
        if yes == Confirmed::OnCommandLine {
            return Ok(());
        }
        let refused = Failure::new(Exit::Refused, format!("not confirmed: {plan}"));
        if !self.input_is_person {
            return Err(refused.because("there is no terminal to ask at").hint("add `--yes` if you mean it"));
        }
        write!(self.err, "{plan}\nThere is no way back. Type yes to go on: ")?;
        self.err.flush()?;
        match self.line().await? {
            Some(answer) if answer.eq_ignore_ascii_case(b"yes") => Ok(()),
            _ => Err(refused.because("the answer was not yes")),
        }
    }

    /// Has a person type what they are about to do, or takes it from the command line. Anything else ends the command.
    pub async fn type_phrase(&mut self, plan: &str, phrase: &str, given: Option<&str>, option: &str) -> Result<(), Failure> {
        let refused = Failure::new(Exit::Refused, "not confirmed; nothing was changed");
        let typed = match given {
            Some(given) => given.to_owned(),
            None if !self.input_is_person => {
                return Err(refused.because("there is no terminal to ask at").hint(format!("add `{option} '{phrase}'` if you mean it")));
            }
            None => {
                write!(self.err, "{plan}\nType `{phrase}` to go on: ")?;
                self.err.flush()?;
                let line = self.line().await?.unwrap_or_default();
                String::from_utf8_lossy(&line).trim().to_owned()
            }
        };
        match typed == phrase {
            true => Ok(()),
            false => Err(refused.because(format!("`{typed}` is not `{phrase}`"))),
        }
    }

    /// Reports a failure and turns the outcome into the exit code.
    pub fn end(&mut self, result: Result<(), Failure>, global: &Global) -> ExitCode {
        let result = result.and_then(|()| Ok(self.out.flush()?));
        let Err(failure) = result else { return ExitCode::from(Exit::Done as u8) };
        // What was printed before the failure is still data; a closed pipe changes nothing about the exit code.
        let _ = self.out.flush();
        if failure.exit != Exit::Done {
            let text = match global.output {
                OutputFormat::Table => failure.to_string(),
                OutputFormat::Json => json(&failure).to_string(),
            };
            // Stderr itself may be closed: then nobody listens.
            let _ = writeln!(self.err, "{text}");
        }
        ExitCode::from(failure.exit as u8)
    }
}

/// Whether the user said `--yes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    OnCommandLine,
    NotYet,
}

impl From<bool> for Confirmed {
    fn from(yes: bool) -> Confirmed {
        if yes { Confirmed::OnCommandLine } else { Confirmed::NotYet }
    }
}

fn json(failure: &Failure) -> serde_json::Value {
    serde_json::json!({"error": {"exit_code": failure.exit as u8, "what": failure.what, "why": failure.why, "next": failure.next}})
}
