//! What a guest writes to the host's log in one call: bounded, on lines of its own, without the secrets that the host knows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use tracing::Level;

use super::budget::Overrun;
use super::transcript::Transcript;

/// What a line of log costs beyond its text: time, level, names. An empty one isn't free.
const LOG_LINE_BYTES: usize = 128;

/// The log of one call. Whatever in that call can write shares it.
#[derive(Clone)]
pub(super) struct Journal(Arc<Mutex<State>>);

struct State {
    component: Arc<str>,
    /// Whether any of it reaches the host's log.
    is_granted: bool,
    bytes_left: usize,
    bytes_max: usize,
    /// What the host has met in this call and must not reach the log; nothing twice.
    secrets: Vec<SecretString>,
    /// Where lines are written down besides, if anybody wants to know.
    transcript: Option<Transcript>,
}

impl Journal {
    /// The log of a call of `component`, at most `bytes_max` long; if it isn't granted, everything is dropped.
    pub(super) fn new(component: Arc<str>, is_granted: bool, bytes_max: usize, transcript: Option<Transcript>) -> Self {
        Self(Arc::new(Mutex::new(State {
            component,
            is_granted,
            bytes_left: bytes_max,
            bytes_max,
            secrets: Vec::new(),
            transcript,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `secret` out of the log.
    pub(super) fn hide(&self, secret: &str) {
        let mut state = self.state();
        // Standard streams are written line by line: there, its lines are all that can be seen of it.
        for part in std::iter::once(secret).chain(secret.split('\n')) {
            let is_known = state.secrets.iter().any(|known| known.expose_secret() == part);
            if !part.is_empty() && !is_known {
                state.secrets.push(part.into());
            }
        }
    }

    /// What it keeps out.
    pub(super) fn secrets(&self) -> Vec<SecretString> {
        self.state().secrets.clone()
    }

    /// Writes a line at `level`.
    ///
    /// # Errors
    /// If that is more than the call may log.
    pub(super) fn write(&self, level: Level, message: &str) -> Result<(), Overrun> {
        self.state().write(level, None, message)
    }

    /// What the guest writes to its standard stream of this name, each line at debug.
    pub(super) fn stream(&self, name: &'static str) -> Stream {
        let (journal, begun) = (self.clone(), Mutex::default());
        Stream { journal, name, begun }
    }
}

impl State {
    fn write(&mut self, level: Level, stream: Option<&'static str>, message: &str) -> Result<(), Overrun> {
        let component = &self.component;
        if !self.is_granted {
            tracing::trace!(%component, "logs without the grant \"log\": dropped");
            return Ok(());
        }
        let left = self.bytes_left.checked_sub(message.len() + LOG_LINE_BYTES);
        self.bytes_left = left.ok_or(Overrun::Log(self.bytes_max))?;
        let message = redacted(message, &self.secrets);
        if let Some(transcript) = &self.transcript {
            let from = stream.map(|stream| format!("{stream}: ")).unwrap_or_default();
            transcript.write_log(format!("{level} {from}{message}"));
        }
        // `Debug` keeps line breaks and control characters out of a line-based log.
        match level {
            Level::ERROR => tracing::error!(%component, stream, ?message),
            Level::WARN => tracing::warn!(%component, stream, ?message),
            Level::INFO => tracing::info!(%component, stream, ?message),
            _ => tracing::debug!(%component, stream, ?message),
        }
        Ok(())
    }
}

/// A guest's standard output or standard error. The last line goes to the log with the stream.
pub(super) struct Stream {
    journal: Journal,
    name: &'static str,
    /// A line that isn't at its end: a secret in it is recognised only as a whole.
    begun: Mutex<Vec<u8>>,
}

impl Stream {
    /// Writes more.
    ///
    /// # Errors
    /// If that is more than the call may log.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Overrun> {
        let mut state = self.journal.state();
        if !state.is_granted {
            return Ok(());
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.len() + bytes.len() > state.bytes_left {
            return Err(Overrun::Log(state.bytes_max));
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(part);
            if let Some(line) = begun.strip_suffix(b"\n") {
                let written = state.write(Level::DEBUG, Some(self.name), &String::from_utf8_lossy(line));
                begun.clear();
                written?;
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let rest = self.begun.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !rest.is_empty() {
            // The call is over: nobody is left to be told of an overrun.
            let rest = String::from_utf8_lossy(rest);
            let _ = self.journal.state().write(Level::DEBUG, Some(self.name), &rest);
        }
    }
}

/// `text` without `secrets`. They are looked for in the text as it was, each in time proportional to its length: what
/// stands for one is never taken for another, so the outcome stays within a few times the text.
fn redacted(text: &str, secrets: &[SecretString]) -> String {
    let mut is_secret = vec![false; text.len()];
    for secret in secrets {
        for (at, found) in text.match_indices(secret.expose_secret()) {
            is_secret[at..at + found.len()].fill(true);
        }
    }
    let mut shown = String::new();
    let mut was_secret = false;
    for (at, character) in text.char_indices() {
        match (is_secret[at], was_secret) {
            (false, _) => shown.push(character),
            (true, false) => shown.push_str("[redacted]"),
            (true, true) => {}
        }
        was_secret = is_secret[at];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_looked_for_in_the_text_as_it_was() {
        let of = |text: &str, secrets: &[&str]| {
            let secrets: Vec<SecretString> = secrets.iter().map(|&secret| secret.into()).collect();
            redacted(text, &secrets)
        };
        assert_eq!(of("me", &["e"]), "m[redacted]");
        assert_eq!(of("me", &["e", "d", "r", "redacted", "["]), "m[redacted]");
        assert_eq!(of("é: s3cret, s3", &["s3", "s3cret"]), "é: [redacted], [redacted]");
        assert_eq!(
            of("uri://s3cret@é s3cret", &["s3cret", "uri://s3cret@é"]),
            "[redacted] [redacted]"
        );
        assert_eq!(
            of("abcd", &["abc", "bcd"]),
            "[redacted]",
            "where they overlap nothing stays"
        );
        assert_eq!(of("é", &["è"]), "é");
        assert_eq!(of("nothing", &[]), "nothing");
    }

    fn journal(bytes_max: usize) -> Journal {
        Journal::new("guest".into(), true, bytes_max, None)
    }

    #[test]
    fn a_stream_takes_no_more_than_the_call_may_log_however_it_comes() {
        for piece in ["x", "\n", "xyz\n", "xyz", &"x".repeat(2000)] {
            let journal = journal(1000);
            let stream = journal.stream("stdout");
            let written = (0..1001).take_while(|_| stream.write(piece.as_bytes()).is_ok()).count();
            assert!(written * piece.len() <= 1000, "{written} times {piece:?}");
            assert!(journal.state().bytes_left <= 1000);
        }
    }

    #[test]
    fn an_end_that_is_not_a_line_is_written_with_the_stream() {
        let journal = journal(1000);
        let stream = journal.stream("stderr");
        stream.write(b"one\ntw").expect("it fits");
        assert_eq!(journal.state().bytes_left, 1000 - 3 - LOG_LINE_BYTES);
        drop(stream);
        assert_eq!(journal.state().bytes_left, 1000 - 5 - 2 * LOG_LINE_BYTES);
    }

    #[test]
    fn what_is_not_granted_costs_nothing() {
        let journal = Journal::new("guest".into(), false, 10, None);
        let stream = journal.stream("stdout");
        stream.write(&[b'x'; 1000]).expect("dropped");
        journal.write(Level::INFO, "much more than that").expect("dropped");
        assert_eq!(journal.state().bytes_left, 10);
    }

    #[test]
    fn of_a_secret_with_line_feeds_no_line_is_written() {
        let journal = journal(1000);
        journal.hide("first half\nsecond");
        let secrets = journal.secrets();
        for line in ["first half\nsecond", "first half", "second"] {
            assert_eq!(redacted(&format!("<{line}>"), &secrets), "<[redacted]>");
        }
    }
}
