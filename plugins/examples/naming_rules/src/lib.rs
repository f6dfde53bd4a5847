//! Names of databases: a prefix for each team, and a pattern.
//!
//! `names` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::{self, Lifetimes};
use policy_base::settings::{self, Given};
use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, dsn,
    password, plan,
};

use names::Names;

mod names;

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    names: Names,
    lifetimes: Lifetimes,
}

impl Settings {
    fn parse(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut given = Given::parse(text);
        let settings = Self {
            names: Names::take(&mut given),
            lifetimes: Lifetimes::take(&mut given),
        };
        given.finish(settings)
    }

    fn own() -> Result<Self, Rejection> {
        Self::parse(&settings::get()).map_err(Rejection::Invalid)
    }
}

/// The exported side: one function per question.
pub struct NamingRules;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(NamingRules with_types_in policy_base::bindings);

impl Guest for NamingRules {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Settings::parse(&settings).map(drop)
    }

    fn plan_create(mut request: CreateRequest, defaults: Defaults, caller: Caller) -> Result<InstanceSpec, Rejection> {
        let settings = Settings::own()?;
        let (name, problem) = match settings.names.name(caller.team.as_deref(), request.database.as_deref()) {
            Ok(name) => (Some(name), None),
            Err(problem) => (request.database, Some(problem)),
        };
        request.database = name;
        // All that is wrong is told at once.
        match plan::plan(request, defaults, &settings.lifetimes, password::generate) {
            Ok(spec) if problem.is_none() => Ok(spec),
            Ok(_) => Err(Rejection::Invalid(problem.into_iter().collect())),
            Err(others) => Err(Rejection::Invalid(problem.into_iter().chain(others).collect())),
        }
    }

    fn plan_extend(_target: Instance, ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        lifetime::extension(ttl_seconds, &Settings::own()?.lifetimes).map_err(Rejection::Invalid)
    }

    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn::format(&endpoint)
    }
}
