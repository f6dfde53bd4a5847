//! Office hours: when instances may be created. What there is can be read, extended and dropped at any time.
//!
//! `hours` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::{self, Lifetimes};
use policy_base::settings::{self, Given};
use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, clock,
    dsn, password, plan,
};

use hours::Hours;

mod hours;

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    hours: Hours,
    lifetimes: Lifetimes,
}

impl Settings {
    fn parse(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut given = Given::parse(text);
        let settings = Self {
            hours: Hours::take(&mut given),
            lifetimes: Lifetimes::take(&mut given),
        };
        given.finish(settings)
    }

    fn own() -> Result<Self, Rejection> {
        Self::parse(&settings::get()).map_err(Rejection::Invalid)
    }
}

/// The exported side: one function per question.
pub struct OfficeHours;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(OfficeHours with_types_in policy_base::bindings);

impl Guest for OfficeHours {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Settings::parse(&settings).map(drop)
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        let settings = Settings::own()?;
        let spec =
            plan::plan(request, defaults, &settings.lifetimes, password::generate).map_err(Rejection::Invalid)?;
        let now =
            clock::now().map_err(|failure| Rejection::Denied(format!("nobody knows the time: {}", failure.message)))?;
        settings.hours.check(now).map_err(Rejection::Denied)?;
        Ok(spec)
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
