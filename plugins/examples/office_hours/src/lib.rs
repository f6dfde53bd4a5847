//! Office hours: when instances may be created. What there is can be read, extended and dropped at any time.
//!
//! `hours` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, clock, password, plan};

use hours::Hours;

mod hours;

/// The exported side.
pub type OfficeHours = Policy<Hours>;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(OfficeHours with_types_in policy_base::bindings);

impl Rule for Hours {
    fn from_settings(given: &mut Given) -> Self {
        Self::take(given)
    }

    fn plan_create(
        &self,
        request: CreateRequest,
        defaults: Defaults,
        _caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection> {
        let spec = plan::plan(request, defaults, lifetimes, password::generate).map_err(Rejection::Invalid)?;
        let now =
            clock::now().map_err(|failure| Rejection::Denied(format!("nobody knows the time: {}", failure.message)))?;
        self.check(now).map_err(Rejection::Denied)?;
        Ok(spec)
    }
}
