//! The built-in rules: what `policy_base` says, and nothing more.

use policy_base::lifetime::Lifetimes;
use policy_base::settings::{self, Given};
use policy_base::{
    Action, Caller, CreateRequest, Defaults, Endpoint, FieldError, Guest, Instance, InstanceSpec, Rejection, dsn,
    lifetime, password, plan,
};

/// The exported side: one function per question, and nothing to remember between calls.
#[derive(Debug)]
pub struct DefaultPolicy;

// Linkers of other targets don't take a component's export names.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "generated from wit/0.2.0/plugin.wit")]
const _: () = {
    policy_base::bindings::export!(DefaultPolicy with_types_in policy_base::bindings);
};

fn parse(settings: &str) -> Result<Lifetimes, Vec<FieldError>> {
    let mut given = Given::parse(settings);
    let lifetimes = Lifetimes::take(&mut given);
    given.finish(lifetimes)
}

/// The settings, which the host has had checked.
fn own_settings() -> Lifetimes {
    parse(&settings::get()).unwrap_or_default()
}

impl Guest for DefaultPolicy {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        parse(&settings).map(drop)
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        plan::plan(request, defaults, &own_settings(), password::generate).map_err(Rejection::Invalid)
    }

    fn plan_extend(_target: Instance, ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        lifetime::extension(ttl_seconds, &own_settings()).map_err(Rejection::Invalid)
    }

    // Whoever can start this host may use the engine anyway: there is nobody to keep an instance from.
    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn::format(&endpoint)
    }
}
