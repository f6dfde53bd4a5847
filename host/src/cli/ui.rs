//! Where a command's words go: results to standard output, everything else to standard error.

use std::fmt;
use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::SecretString;
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::exit::ExitCode;
use crate::config::{ConfigError, What};
use crate::environment::Environment;
use crate::failure::{Failure, FailureCode, printable};
use crate::instance::{PASSWORD_BYTES_MAX, ProgressSink};

/// How often the spinner turns.
const SPINNER_TICK: Duration = Duration::from_millis(100);
/// How much of an answer to a question is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 256;

/// How results and errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What is at the other ends of the standard streams.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
pub(super) struct Terminal {
    /// Somebody types.
    pub stdin: bool,
    /// Somebody reads results.
    pub stdout: bool,
    /// Somebody reads messages.
    pub stderr: bool,
    /// Messages may have colours.
    pub colour: bool,
    /// Characters beyond ASCII are shown as what they are.
    pub unicode: bool,
}

impl Terminal {
    fn of_process(environment: &Environment) -> Self {
        let stderr = std::io::stderr().is_terminal();
        let is = |name, value: &str| environment.non_empty(name).is_some_and(|found| found == value);
        // POSIX: the first of these that is set and not empty counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| environment.non_empty(name));
        let locale = locale
            .unwrap_or_default()
            .to_string_lossy()
            .to_ascii_lowercase()
            .replace('-', "");
        Self {
            stdin: std::io::stdin().is_terminal(),
            stdout: std::io::stdout().is_terminal(),
            stderr,
            colour: stderr && environment.non_empty("NO_COLOR").is_none() && !is("TERM", "dumb"),
            unicode: cfg!(windows) || locale.ends_with("utf8"),
        }
    }
}

/// A command's standard streams.
pub(super) struct Ui {
    /// How results and errors are written.
    pub format: Format,
    /// What is at the other ends.
    pub terminal: Terminal,
    stdin: Box<dyn AsyncBufRead + Send + Unpin>,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui")
            .field("format", &self.format)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl Ui {
    /// The process's own streams.
    #[must_use]
    pub(super) fn of_process(format: Format, environment: &Environment) -> Self {
        Self {
            format,
            terminal: Terminal::of_process(environment),
            stdin: Box::new(BufReader::new(tokio::io::stdin())),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
        }
    }

    /// Writes a result, as JSON or as the text.
    ///
    /// # Errors
    /// If standard output doesn't take it.
    pub(super) fn result(&mut self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let out = match self.format {
            Format::Table => text(),
            Format::Json => match serde_json::to_string_pretty(result) {
                Ok(json) => json + "\n",
                Err(error) => return Err(Failure::new(FailureCode::Internal, error.to_string(), "")),
            },
        };
        self.raw(out.as_bytes())
    }

    /// Writes a result that has one form only.
    ///
    /// # Errors
    /// If standard output doesn't take it.
    pub(super) fn raw(&mut self, out: &[u8]) -> Result<(), Failure> {
        self.stdout
            .write_all(out)
            .and_then(|()| self.stdout.flush())
            .map_err(|error| {
                Failure::new(
                    FailureCode::Failed,
                    format!("the result could not be written to standard output: {error}"),
                    "",
                )
            })
    }

    /// Tells a person something that is no result; programs are told nothing.
    pub(super) fn note(&mut self, text: &str) {
        if self.format == Format::Table {
            self.tell(text);
        }
    }

    /// Writes an error: `error:` and `hint:` lines, or one JSON object on a line.
    pub(super) fn error<'a>(&mut self, report: impl Into<Report<'a>>) -> ExitCode {
        let report = report.into();
        match self.format {
            Format::Json => self.tell(&report.json()),
            Format::Table => self.tell(&report.text(self.terminal.colour)),
        }
        report.exit
    }

    /// Asks a question to be answered with yes or no; everything but yes is no.
    pub(super) async fn confirm(&mut self, question: &str) -> bool {
        let _ = write!(self.stderr, "{question} [y/N] ").and_then(|()| self.stderr.flush());
        let mut answer = String::new();
        let read = (&mut self.stdin).take(ANSWER_BYTES_MAX).read_line(&mut answer).await;
        read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// Reads all of standard input as a password, without the line ending at its end.
    ///
    /// # Errors
    /// If it can't be read or isn't UTF-8.
    pub(super) async fn read_password(&mut self) -> Result<SecretString, Failure> {
        // Enough for a password that is too long to be refused as too long.
        let bytes_max = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(16);
        let mut text = String::new();
        (&mut self.stdin)
            .take(bytes_max)
            .read_to_string(&mut text)
            .await
            .map_err(|error| {
                let message = format!("the password could not be read from standard input: {error}");
                Failure::new(
                    FailureCode::InvalidArguments,
                    message,
                    "Pipe it in: printf %s \"$PASSWORD\" | …",
                )
            })?;
        let password = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        Ok(password.into())
    }

    /// Shows while it lives what is waited for, if somebody looks.
    #[must_use]
    pub(super) fn waiting(&self, what: String) -> ShownProgress {
        let shown = self.progress();
        shown.0.set_message(what);
        shown
    }

    /// Shows the steps of a create while it lives, if somebody looks.
    #[must_use]
    pub(super) fn progress(&self) -> ShownProgress {
        let target = if self.terminal.stderr {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::default_spinner();
        bar.set_style(if self.terminal.unicode {
            style
        } else {
            style.tick_chars(r"|/-\ ")
        });
        bar.enable_steady_tick(SPINNER_TICK);
        ShownProgress(bar)
    }

    fn tell(&mut self, text: &str) {
        // There is nobody left to tell that standard error doesn't take it.
        let _ = writeln!(self.stderr, "{}", text.trim_end()).and_then(|()| self.stderr.flush());
    }
}

/// A spinner with the current step beside it; it goes when it is dropped.
#[derive(Debug)]
pub(super) struct ShownProgress(ProgressBar);

impl ShownProgress {
    /// Where the steps are told.
    #[must_use]
    pub(super) fn sink(&self) -> ProgressSink {
        let bar = self.0.downgrade();
        ProgressSink::new(move |step| {
            if let Some(bar) = bar.upgrade() {
                bar.set_message(step.to_string());
            }
        })
    }
}

impl Drop for ShownProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// An error as it is told to people and programs.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    code: &'static str,
    message: String,
    advice: &'a str,
    fields: Vec<ReportedField>,
    #[serde(skip)]
    exit: ExitCode,
}

#[derive(Debug, Serialize)]
struct ReportedField {
    field: String,
    message: String,
    /// For people.
    #[serde(skip)]
    text: String,
}

impl<'a> From<&'a Failure> for Report<'a> {
    fn from(failure: &'a Failure) -> Self {
        let field = |error: &crate::policy::FieldError| ReportedField {
            field: error.field.clone(),
            message: error.message.clone(),
            text: error.to_string(),
        };
        Self {
            code: failure.code.as_str(),
            message: failure.message.clone(),
            advice: &failure.advice,
            fields: failure.fields.iter().map(field).collect(),
            exit: failure.code.into(),
        }
    }
}

impl From<&ConfigError> for Report<'_> {
    fn from(ConfigError(problems): &ConfigError) -> Self {
        let field = |problem: &crate::config::Problem| ReportedField {
            field: match &problem.what {
                What::Unknown { name, .. } => name.clone(),
                What::Wrong { key, .. } => key.clone(),
                What::Unreadable(_) => "config".to_owned(),
            },
            message: problem.to_string(),
            text: problem.to_string(),
        };
        Self {
            code: FailureCode::Configuration.as_str(),
            message: match problems.as_slice() {
                [problem] => problem.to_string(),
                several => format!("the configuration has {} problems", several.len()),
            },
            advice: "`dev-postgres-mcp config default` prints every setting with its meaning.",
            fields: problems.iter().map(field).collect(),
            exit: ExitCode::Configuration,
        }
    }
}

impl Report<'_> {
    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            error: &'a Report<'a>,
        }
        // Strings under fixed names: JSON has them all.
        serde_json::to_string(&Line { error: self }).unwrap_or_default()
    }

    fn text(&self, colour: bool) -> String {
        let label = |text, code| {
            if colour {
                format!("\x1b[1;{code}m{text}\x1b[0m")
            } else {
                String::from(text)
            }
        };
        // Docker's, PostgreSQL's and a policy's words may be in it: line feeds stay, other control characters don't.
        let message: Vec<String> = self.message.lines().map(printable).collect();
        let mut lines = vec![format!("{} {}", label("error:", 31), message.join("\n"))];
        // Most messages have what is wrong with each field in them; those of bundles need not.
        let untold = self.fields.iter().filter(|field| !self.message.contains(&field.text));
        lines.extend(untold.map(|field| format!("  {}", printable(&field.text))));
        if !self.advice.is_empty() {
            lines.push(format!("{} {}", label("hint:", 36), self.advice));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
pub(super) mod fake {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::{Format, Terminal, Ui};

    /// What was written to a stream.
    #[derive(Debug, Clone, Default)]
    pub(in crate::cli) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("unpoisoned").clone()).expect("UTF-8")
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Streams for tests: what is typed, and what comes of it on standard output and standard error.
    pub(in crate::cli) fn ui(format: Format, terminal: Terminal, typed: &'static str) -> (Ui, Written, Written) {
        let (stdout, stderr) = (Written::default(), Written::default());
        let ui = Ui {
            format,
            terminal,
            stdin: Box::new(typed.as_bytes()),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
        };
        (ui, stdout, stderr)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn failure() -> Failure {
        Failure::new(FailureCode::NotFound, "there is no such thing", "Look elsewhere.")
    }

    #[test]
    fn an_error_for_people_has_its_cause_and_the_next_step_on_lines_of_their_own() {
        let (mut ui, stdout, stderr) = fake::ui(Format::Table, Terminal::default(), "");
        assert_eq!(ui.error(&failure()), ExitCode::NotFound);
        assert_eq!(stderr.text(), "error: there is no such thing\nhint: Look elsewhere.\n");
        assert_eq!(stdout.text(), "");
    }

    #[test]
    fn an_error_for_programs_is_one_json_object_on_one_line() {
        let (mut ui, stdout, stderr) = fake::ui(Format::Json, Terminal::default(), "");
        ui.error(&failure());
        insta::assert_snapshot!(stderr.text(), @r#"{"error":{"code":"not_found","message":"there is no such thing","advice":"Look elsewhere.","fields":[]}}"#);
        assert_eq!(stdout.text(), "");
    }

    #[test]
    fn programs_are_told_no_notes() {
        let (mut ui, _, stderr) = fake::ui(Format::Json, Terminal::default(), "");
        ui.note("by the way");
        assert_eq!(stderr.text(), "");
    }

    #[tokio::test]
    async fn a_password_is_all_of_the_input_but_for_one_line_ending() {
        for (typed, password) in [
            ("p", "p"),
            ("p\n", "p"),
            ("p\r\n", "p"),
            ("p q\n\n", "p q\n"),
            ("\np", "\np"),
            ("", ""),
        ] {
            let (mut ui, ..) = fake::ui(Format::Table, Terminal::default(), typed);
            let read = ui.read_password().await.expect("a password");
            assert_eq!(read.expose_secret(), password, "{typed:?}");
        }
    }

    #[tokio::test]
    async fn only_yes_is_yes() {
        for (typed, answer) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("no\n", false),
            ("", false),
            ("yikes", false),
        ] {
            let (mut ui, _, stderr) = fake::ui(Format::Table, Terminal::default(), typed);
            assert_eq!(ui.confirm("Really?").await, answer, "{typed:?}");
            assert_eq!(stderr.text(), "Really? [y/N] ");
        }
    }
}
