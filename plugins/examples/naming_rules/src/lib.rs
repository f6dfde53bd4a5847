//! Names of databases: a prefix for each team, and a pattern.
//!
//! `names` has the rule; all else is as in the built-in policy.

use policy_base::lifetime::Lifetimes;
use policy_base::rule::{Policy, Rule};
use policy_base::settings::Given;
use policy_base::{Caller, CreateRequest, Defaults, InstanceSpec, Rejection, password, plan};

use names::Names;

mod names;

/// The exported side.
pub type NamingRules = Policy<Names>;

// Linkers of other targets, where only the tests run, don't take a component's export names.
#[cfg(target_arch = "wasm32")]
policy_base::bindings::export!(NamingRules with_types_in policy_base::bindings);

impl Rule for Names {
    fn from_settings(given: &mut Given) -> Self {
        Self::take(given)
    }

    fn plan_create(
        &self,
        mut request: CreateRequest,
        defaults: Defaults,
        caller: &Caller,
        lifetimes: &Lifetimes,
    ) -> Result<InstanceSpec, Rejection> {
        let (name, problem) = match self.name(caller.team.as_deref(), request.database.as_deref()) {
            Ok(name) => (Some(name), None),
            Err(problem) => (request.database, Some(problem)),
        };
        request.database = name;
        // All that is wrong is told at once.
        match plan::plan(request, defaults, lifetimes, password::generate) {
            Ok(spec) if problem.is_none() => Ok(spec),
            Ok(_) => Err(Rejection::Invalid(problem.into_iter().collect())),
            Err(others) => Err(Rejection::Invalid(problem.into_iter().chain(others).collect())),
        }
    }
}
