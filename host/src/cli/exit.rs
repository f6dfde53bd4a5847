//! What the process's exit code says.

use std::fmt::Write as _;

use crate::failure::FailureCode;

/// Every exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It is done.
    Ok = 0,
    /// It failed in a way that no other code names.
    Failed = 1,
    /// The command line can't be understood; clap ends the process with it.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// There is no such instance.
    NotFound = 4,
    /// The arguments don't fit, or the policy denies it.
    Refused = 5,
    /// No engine, image or version to run PostgreSQL with, or no registry, can be reached.
    Unavailable = 6,
    /// A deadline passed.
    TimedOut = 7,
    /// It was looked at and isn't well.
    Unhealthy = 8,
    /// No port is left, or a quota is used up.
    Exhausted = 9,
    /// A defect of this program or of a plugin.
    Internal = 10,
    /// Ctrl-C: 128 + SIGINT.
    Interrupted = 130,
    /// 128 + SIGTERM.
    Terminated = 143,
}

impl ExitCode {
    /// Every code, in the order in which they are documented.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Configuration,
        Self::NotFound,
        Self::Refused,
        Self::Unavailable,
        Self::TimedOut,
        Self::Unhealthy,
        Self::Exhausted,
        Self::Internal,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// What it says, for `--help`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "failed, or not confirmed",
            Self::Usage => "the command line can't be understood",
            Self::Configuration => "the configuration is wrong",
            Self::NotFound => "there is no such instance",
            Self::Refused => "the arguments don't fit, or the policy denies it",
            Self::Unavailable => "no engine, image or version to run PostgreSQL with, or no registry, can be reached",
            Self::TimedOut => "a deadline passed",
            Self::Unhealthy => "`postgres health`, `doctor` or a `plugin` command found something that doesn't work",
            Self::Exhausted => "no port is left, or a quota is used up",
            Self::Internal => "a defect of this program or of a plugin",
            Self::Interrupted => "interrupted (Ctrl-C)",
            Self::Terminated => "terminated (SIGTERM)",
        }
    }

    /// All of them, for `--help`.
    #[must_use]
    pub fn reference() -> String {
        let mut out = String::from("Exit codes:\n");
        for code in Self::ALL {
            // Writing to a String can't fail.
            let _ = writeln!(out, "  {:>3}  {}", code as u8, code.meaning());
        }
        out
    }
}

impl From<FailureCode> for ExitCode {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::InvalidArguments | FailureCode::Denied => Self::Refused,
            FailureCode::Configuration => Self::Configuration,
            FailureCode::NotFound => Self::NotFound,
            FailureCode::Exhausted => Self::Exhausted,
            FailureCode::Unavailable => Self::Unavailable,
            FailureCode::TimedOut => Self::TimedOut,
            FailureCode::Failed => Self::Failed,
            FailureCode::Internal => Self::Internal,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_codes_are_the_same_number() {
        let numbers: std::collections::BTreeSet<u8> = ExitCode::ALL.iter().map(|&code| code as u8).collect();
        assert_eq!(numbers.len(), ExitCode::ALL.len());
    }

    #[test]
    fn every_kind_of_failure_has_its_code() {
        let codes = FailureCode::ALL.map(|code| format!("{} {}", code.as_str(), ExitCode::from(code) as u8));
        insta::assert_snapshot!(codes.join("\n"), @"
        invalid_arguments 5
        configuration 3
        denied 5
        not_found 4
        exhausted 9
        unavailable 6
        timed_out 7
        failed 1
        internal 10
        ");
    }
}
