//! How strong a password has to be: its length, its kinds of characters, and no words that everybody tries.
//!
//! `strength` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::{self, Lifetimes};
use policy_base::settings::{self, Given};
use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, dsn, plan,
    random,
};

use strength::Strength;

mod strength;

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    strength: Strength,
    lifetimes: Lifetimes,
}

impl Settings {
    fn parse(text: &str) -> Result<Self, Vec<FieldError>> {
        let mut given = Given::parse(text);
        let settings = Self {
            strength: Strength::take(&mut given),
            lifetimes: Lifetimes::take(&mut given),
        };
        given.finish(settings)
    }

    fn own() -> Result<Self, Rejection> {
        Self::parse(&settings::get()).map_err(Rejection::Invalid)
    }
}

/// The exported side: one function per question.
pub struct PasswordStrength;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(PasswordStrength with_types_in policy_base::bindings);

impl Guest for PasswordStrength {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        Settings::parse(&settings).map(drop)
    }

    fn plan_create(mut request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        let settings = Settings::own()?;
        let mut problems = Vec::new();
        match &request.password {
            Some(password) => problems = settings.strength.problems(password),
            None => {
                let generated = settings.strength.generate(random::bytes);
                request.password = Some(generated.map_err(Rejection::Denied)?);
            }
        }
        // All that is wrong is told at once.
        match plan::plan(request, defaults, &settings.lifetimes, String::new) {
            Ok(spec) if problems.is_empty() => Ok(spec),
            Ok(_) => Err(Rejection::Invalid(problems)),
            Err(others) => Err(Rejection::Invalid([problems, others].concat())),
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
