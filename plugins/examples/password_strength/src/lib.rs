//! How strong a password has to be: its length, its kinds of characters, and no words that everybody tries.
//!
//! `strength` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, plan, random};

use strength::Strength;

mod strength;

/// The exported side.
pub type PasswordStrength = Policy<Strength>;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(PasswordStrength with_types_in policy_base::bindings);

impl Rule for Strength {
    fn from_settings(given: &mut Given) -> Self {
        Self::take(given)
    }

    fn plan_create(
        &self,
        mut request: CreateRequest,
        defaults: Defaults,
        _caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection> {
        let mut problems = Vec::new();
        match &request.password {
            Some(password) => problems = self.problems(password),
            None => {
                let generated = self.generate(random::bytes);
                request.password = Some(generated.map_err(Rejection::Denied)?);
            }
        }
        // All that is wrong is told at once.
        match plan::plan(request, defaults, lifetimes, String::new) {
            Ok(spec) if problems.is_empty() => Ok(spec),
            Ok(_) => Err(Rejection::Invalid(problems)),
            Err(others) => Err(Rejection::Invalid([problems, others].concat())),
        }
    }
}
