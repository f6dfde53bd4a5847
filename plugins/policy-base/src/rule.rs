//! A policy of the built-in rules and one more.

use std::marker::PhantomData;

use crate::lifetime::{self, Lifetimes};
use crate::settings::{self, Given};
use crate::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, dsn,
};

/// One rule for creates, with settings of its own. [`Policy`] makes a policy of it.
pub trait Rule: Sized {
    /// Takes the rule's own settings, and refuses there what is wrong with them.
    fn from_settings(given: &mut Given) -> Self;

    /// What is built for a request. [`plan::plan`](crate::plan::plan) with these lifetimes has the built-in rules.
    ///
    /// # Errors
    /// Why nothing is built.
    fn plan_create(
        &self,
        request: CreateRequest,
        defaults: Defaults,
        caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection>;
}

/// The policy in which `R` decides on creates, and the built-in rules on all else.
#[derive(Debug)]
pub struct Policy<R>(PhantomData<R>);

impl<R: Rule> Policy<R> {
    fn parse(settings: &str) -> Result<(R, Lifetimes), Vec<FieldError>> {
        let mut given = Given::parse(settings);
        let settings = (R::from_settings(&mut given), Lifetimes::take(&mut given));
        given.finish(settings)
    }

    /// What the host has had checked. Should it be wrong all the same, nothing is allowed.
    fn own_settings() -> Result<(R, Lifetimes), Rejection> {
        Self::parse(&settings::get()).map_err(Rejection::Invalid)
    }
}

impl<R: Rule> Guest for Policy<R> {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Self::parse(&settings).map(drop)
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, caller: Caller) -> Result<InstanceSpec, Rejection> {
        let (rule, lifetimes) = Self::own_settings()?;
        rule.plan_create(request, defaults, &caller, &lifetimes)
    }

    fn plan_extend(_target: Instance, ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        let (_, lifetimes) = Self::own_settings()?;
        lifetime::extension(ttl_seconds, &lifetimes).map_err(Rejection::Invalid)
    }

    // Whoever can start this host may use the engine anyway: there is nobody to keep an instance from.
    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn::format(&endpoint)
    }
}
