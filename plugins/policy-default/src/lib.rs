//! The built-in rules, and the template for a team's own: copy this folder and change what your team sees differently.
//!
//! The host asks five questions, the functions of `rules` in `wit/0.2.0/plugin.wit`. The answers are worked out in modules
//! that know nothing of WebAssembly, so that a plain `cargo test` covers them; this file only connects the two.
//!
//! | module | answers |
//! |---|---|
//! | `plan` | what is built for a request, or what is wrong with it |
//! | `password` | which password an instance gets when the caller names none |
//! | `dsn` | what the connection URI looks like |
//! | `lifetime` | how long an instance lives that is given a time to live |
//! | `settings` | which settings there are |

mod dsn;
mod lifetime;
mod password;
mod plan;
mod settings;

use bindings::dev_postgres::plugin::random;
use bindings::dev_postgres::plugin::types::{CreateRequest, FieldError, Instance, InstanceSpec};
use bindings::exports::dev_postgres::plugin::rules::{Action, Caller, Defaults, Endpoint, Guest, Rejection};

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated from wit/0.2.0/plugin.wit"
)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit/0.2.0", world: "policy" });

    // Linkers of other targets, where only the tests run, don't take a component's export names.
    #[cfg(target_arch = "wasm32")]
    export!(DefaultPolicy with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::DefaultPolicy;
}

/// The settings, which the host has had checked.
fn own_settings() -> settings::Settings {
    settings::parse(&bindings::dev_postgres::plugin::settings::get()).unwrap_or_default()
}

/// The exported side: one function per question, and nothing to remember between calls.
#[derive(Debug)]
pub struct DefaultPolicy;

impl Guest for DefaultPolicy {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        settings::parse(&settings).map(drop)
    }

    fn plan_create(request: CreateRequest, defaults: Defaults, _caller: Caller) -> Result<InstanceSpec, Rejection> {
        let generate_password = || password::from_random(&random::bytes(password::RANDOM_BYTES));
        plan::plan(request, defaults, &own_settings(), generate_password).map_err(Rejection::Invalid)
    }

    fn plan_extend(_target: Instance, ttl_seconds: Option<u64>, _caller: Caller) -> Result<u64, Rejection> {
        lifetime::extension(ttl_seconds, &own_settings()).map_err(|problem| Rejection::Invalid(vec![problem]))
    }

    // Whoever can start this host may use the engine anyway: there is nobody to keep an instance from.
    fn authorize(_action: Action, _target: Instance, _caller: Caller) -> Result<(), String> {
        Ok(())
    }

    fn format_dsn(endpoint: Endpoint) -> String {
        dsn::format(&endpoint)
    }
}
