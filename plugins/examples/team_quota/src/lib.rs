//! A quota: how many instances a team may have at a time.
//!
//! `quota` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, inventory, password, plan};

use quota::Quota;

mod quota;

/// The exported side.
pub type TeamQuota = Policy<Quota>;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(TeamQuota with_types_in policy_base::bindings);

impl Rule for Quota {
    fn from_settings(given: &mut Given) -> Self {
        Self::take(given)
    }

    fn plan_create(
        &self,
        request: CreateRequest,
        defaults: Defaults,
        caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection> {
        let spec = plan::plan(request, defaults, lifetimes, password::generate).map_err(Rejection::Invalid)?;
        let holdings = inventory::list().map_err(|failure| {
            Rejection::Denied(format!(
                "the instances that there are can't be counted: {}",
                failure.message
            ))
        })?;
        self.check(caller.team.as_deref(), &holdings)
            .map_err(Rejection::Denied)?;
        Ok(spec)
    }
}
