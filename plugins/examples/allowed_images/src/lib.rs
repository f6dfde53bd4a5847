//! An allow list: which image repositories and which versions may be built.
//!
//! Nothing is changed that was asked for: what isn't on the list is denied. `images` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, password, plan};

use images::Images;

mod images;

/// The exported side.
pub type AllowedImages = Policy<Images>;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(AllowedImages with_types_in policy_base::bindings);

impl Rule for Images {
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
        self.check(&spec.repository, &spec.version).map_err(Rejection::Denied)?;
        Ok(spec)
    }
}
