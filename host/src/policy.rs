//! What the host asks of a team's rules.

#[cfg(test)]
pub(crate) mod canned;
pub mod changes;
pub mod monitor;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::failure::Failure;
use crate::instance::{
    Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceId, InstanceSpec, Owner, Ttl,
};

/// A team's rules. They hold for every caller, and an error of any kind denies.
#[async_trait]
pub trait Policy: fmt::Debug + Send + Sync {
    /// Turns a request into what is built, or says why not.
    async fn plan_create(
        &self,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, Rejection>;

    /// How long an instance lives from now on, or why not; `None` leaves it to the rules.
    async fn plan_extend(
        &self,
        _target: &Instance,
        _ttl_seconds: Option<u64>,
        _caller: &Caller,
        _inventory: Arc<dyn Inventory>,
    ) -> Result<Ttl, Rejection> {
        Err(Rejection::Denied("the rules say nothing of lifetimes".into()))
    }

    /// Allows an action on an instance, or says why not.
    async fn authorize(
        &self,
        action: Action,
        target: &Instance,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<(), Rejection>;

    /// Allows an action on each of several instances, or says why not, in their order; an error is none of theirs.
    async fn authorize_each(
        &self,
        action: Action,
        targets: &[Instance],
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        let mut verdicts = Vec::new();
        for target in targets {
            verdicts.push(
                match self.authorize(action, target, caller, Arc::clone(&inventory)).await {
                    Ok(()) => Ok(()),
                    Err(Rejection::Denied(reason)) => Err(reason),
                    Err(fault) => return Err(fault),
                },
            );
        }
        Ok(verdicts)
    }

    /// Whether everything is let through, whatever the rules say.
    fn only_monitors(&self) -> bool {
        false
    }

    /// The connection URI that a caller is given.
    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection>;
}

/// What there is, for rules that count: it is looked up when they ask.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Every instance of every team, and what this process began to create before; oldest first.
    async fn holdings(&self) -> Result<Vec<Holding>, Failure>;
}

/// An instance, or one that is being created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its id.
    pub id: InstanceId,
    /// Who made it, if that is known.
    pub owner: Option<Owner>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What is asked for an instance that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read it, credentials included.
    Get,
    /// See that it is there.
    List,
    /// Remove it.
    Drop,
    /// Run a query to see how it is.
    Health,
}

impl Action {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Drop => "drop",
            Self::Health => "health",
        }
    }
}

/// Why the rules say no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request does not fit.
    #[error("the request does not fit{}", of_fields(.0))]
    Invalid(Vec<FieldError>),
    /// The rules forbid it.
    #[error("the policy denies it{}", of_reason(.0))]
    Denied(String),
    /// The policy itself is at fault: it trapped, overran its budget or answered nonsense.
    #[error("the policy gave no valid answer, so nothing is allowed: {0}")]
    Broken(String),
}

impl Rejection {
    /// Whether the rules have failed, not decided.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// A fragment that reads well after the name: "must not be empty".
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

/// All of them in one line.
#[must_use]
pub fn join(fields: &[FieldError]) -> String {
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What is said of why, to be read after what was not done: a guest may say nothing.
pub(crate) fn of_reason(reason: &str) -> String {
    match reason.trim() {
        "" => ", and nobody says why".to_owned(),
        _ => format!(": {reason}"),
    }
}

/// As [`of_reason`], of fields.
pub(crate) fn of_fields(fields: &[FieldError]) -> String {
    of_reason(&join(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_no_and_nothing_more_is_told_of_as_that() {
        assert_eq!(
            Rejection::Denied("there are enough".into()).to_string(),
            "the policy denies it: there are enough"
        );
        assert_eq!(
            Rejection::Denied(" ".into()).to_string(),
            "the policy denies it, and nobody says why"
        );
        assert_eq!(
            Rejection::Invalid(Vec::new()).to_string(),
            "the request does not fit, and nobody says why"
        );
    }
}
