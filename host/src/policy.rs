//! What the host asks of a team's rules.

use std::fmt;

use async_trait::async_trait;

use crate::instance::{Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceSpec};

/// A team's rules. They hold for every caller, and an error of any kind denies.
#[async_trait]
pub trait Policy: fmt::Debug + Send + Sync {
    /// Turns a request into what is built, or says why not.
    async fn plan_create(
        &self,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
    ) -> Result<InstanceSpec, Rejection>;

    /// Allows an action on an instance, or says why not.
    async fn authorize(&self, action: Action, target: &Instance, caller: &Caller) -> Result<(), Rejection>;

    /// Allows an action on each of several instances, or says why not, in their order; an error is none of theirs.
    async fn authorize_each(
        &self,
        action: Action,
        targets: &[Instance],
        caller: &Caller,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        let mut verdicts = Vec::new();
        for target in targets {
            verdicts.push(match self.authorize(action, target, caller).await {
                Ok(()) => Ok(()),
                Err(Rejection::Denied(reason)) => Err(reason),
                Err(fault) => return Err(fault),
            });
        }
        Ok(verdicts)
    }

    /// The connection URI that a caller is given.
    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection>;
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

/// Why the rules say no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request does not fit.
    #[error("the request does not fit: {}", join(.0))]
    Invalid(Vec<FieldError>),
    /// The rules forbid it.
    #[error("the policy denies it: {0}")]
    Denied(String),
    /// The policy itself is at fault: it trapped, overran its budget or answered nonsense.
    #[error("the policy gave no valid answer, so nothing is allowed: {0}")]
    Broken(String),
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
