//! What policies are made of: the bindings of the WIT world `policy`, and the built-in rules as functions to call.
//!
//! The host asks five questions, the functions of `rules` in `wit/0.2.0/plugin.wit`, which are the trait [`Guest`] here. A
//! policy answers those that its team sees differently, and leaves the others to the modules below. They know nothing of
//! WebAssembly, so that a plain `cargo test` covers them. `plugins/policy-default` does nothing else, and each policy in
//! `plugins/examples` adds one rule.
//!
//! | module | answers |
//! |---|---|
//! | [`plan`] | what is built for a request, or what is wrong with it |
//! | [`password`] | which password an instance gets when the caller names none |
//! | [`dsn`] | what the connection URI looks like |
//! | [`lifetime`] | how long an instance lives that is given a time to live |
//! | [`settings`] | what the configuration says, and all that is wrong with it |
//!
//! [`rule`] makes a policy of these and one more rule, which is all that most teams need.

pub mod dsn;
pub mod lifetime;
pub mod password;
pub mod plan;
pub mod rule;
pub mod settings;

pub use bindings::dev_postgres::plugin::inventory::Holding;
pub use bindings::dev_postgres::plugin::types::{CreateRequest, FieldError, Instance, InstanceSpec, Owner};
pub use bindings::dev_postgres::plugin::{clock, inventory, log, random};
pub use bindings::exports::dev_postgres::plugin::rules::{Action, Caller, Defaults, Endpoint, Guest, Rejection};

/// What `wit-bindgen` makes of the WIT. `bindings::export!(Rules with_types_in policy_base::bindings)` makes a policy of a
/// type that is a [`Guest`].
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated from wit/0.2.0/plugin.wit"
)]
pub mod bindings {
    wit_bindgen::generate!({ path: "../../wit/0.2.0", world: "policy", pub_export_macro: true });
}
