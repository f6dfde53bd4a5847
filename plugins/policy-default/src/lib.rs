//! The built-in rules: what `policy_base` says, and nothing more.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, password, plan};

/// The exported side: one function per question, and nothing to remember between calls.
pub type DefaultPolicy = Policy<NothingMore>;

// Linkers of other targets don't take a component's export names.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "generated from wit/0.2.0/plugin.wit")]
const _: () = {
    policy_base::bindings::export!(DefaultPolicy with_types_in policy_base::bindings);
};

/// No rule but the built-in ones.
#[derive(Debug)]
pub struct NothingMore;

impl Rule for NothingMore {
    fn from_settings(_given: &mut Given) -> Self {
        Self
    }

    fn plan_create(
        &self,
        request: CreateRequest,
        defaults: Defaults,
        _caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection> {
        plan::plan(request, defaults, lifetimes, password::generate).map_err(Rejection::Invalid)
    }
}
