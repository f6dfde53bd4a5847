//! Rules on trial: what they would have denied is done all the same, and told.

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;

use super::{Action, Inventory, Policy, Rejection};
use crate::failure::without;
use crate::instance::{Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceSpec, Ttl};
use crate::metrics::METRICS;

/// Asks rules, and goes by others where they deny or fail.
#[derive(Debug)]
pub struct Monitored {
    rules: Arc<dyn Policy>,
    instead: Arc<dyn Policy>,
}

impl Monitored {
    /// `rules` are on trial, `instead` hold where those wouldn't let something through.
    #[must_use]
    pub fn new(rules: Arc<dyn Policy>, instead: Arc<dyn Policy>) -> Self {
        Self { rules, instead }
    }
}

/// `Debug` keeps a guest's words on one line.
fn tell(action: &'static str, caller: &Caller, target: Option<&Instance>, reason: &str) {
    let id = target.map(|target| tracing::field::display(target.id));
    tracing::warn!(action, %caller, id, ?reason, "the policy, which only monitors, would have denied this");
}

/// A request's password is repeated in no log, whatever a policy says of it.
fn without_password(reason: String, request: &CreateRequest) -> String {
    match request.password.as_ref().map(ExposeSecret::expose_secret) {
        Some(password) => without(&reason, password),
        None => reason,
    }
}

#[async_trait]
impl Policy for Monitored {
    async fn plan_create(
        &self,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, Rejection> {
        let planned = self
            .rules
            .plan_create(request, defaults, caller, Arc::clone(&inventory))
            .await;
        let rejection = match planned {
            Ok(spec) => return Ok(spec),
            Err(rejection) => rejection,
        };
        let instead = self.instead.plan_create(request, defaults, caller, inventory).await?;
        let reason = without_password(rejection.to_string(), request);
        tell("create", caller, None, &reason);
        METRICS.policy_monitored("create", rejection.is_failure());
        Ok(instead)
    }

    async fn plan_extend(
        &self,
        target: &Instance,
        ttl_seconds: Option<u64>,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Ttl, Rejection> {
        let planned = self
            .rules
            .plan_extend(target, ttl_seconds, caller, Arc::clone(&inventory))
            .await;
        let rejection = match planned {
            Ok(ttl) => return Ok(ttl),
            Err(rejection) => rejection,
        };
        let instead = self.instead.plan_extend(target, ttl_seconds, caller, inventory).await?;
        tell("extend", caller, Some(target), &rejection.to_string());
        METRICS.policy_monitored("extend", rejection.is_failure());
        Ok(instead)
    }

    async fn authorize(
        &self,
        action: Action,
        target: &Instance,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<(), Rejection> {
        if let Err(rejection) = self.rules.authorize(action, target, caller, inventory).await {
            tell(action.as_str(), caller, Some(target), &rejection.to_string());
            METRICS.policy_monitored(action.as_str(), rejection.is_failure());
        }
        Ok(())
    }

    async fn authorize_each(
        &self,
        action: Action,
        targets: &[Instance],
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        match self.rules.authorize_each(action, targets, caller, inventory).await {
            Ok(verdicts) => {
                for (target, verdict) in targets.iter().zip(verdicts) {
                    if let Err(reason) = verdict {
                        tell(action.as_str(), caller, Some(target), &reason);
                        METRICS.policy_monitored(action.as_str(), false);
                    }
                }
            }
            Err(rejection) => {
                tell(action.as_str(), caller, None, &rejection.to_string());
                METRICS.policy_monitored(action.as_str(), rejection.is_failure());
            }
        }
        Ok(targets.iter().map(|_| Ok(())).collect())
    }

    fn only_monitors(&self) -> bool {
        true
    }

    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection> {
        match self.rules.connection_uri(found).await {
            Ok(uri) => Ok(uri),
            // It is in the log already.
            Err(_) => self.instead.connection_uri(found).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::instance::{Image, Limits, Password};
    use crate::policy::canned::{Canned, Empty, instance};

    fn spec(database: &str) -> InstanceSpec {
        InstanceSpec {
            image: Image::new("postgres", "17").expect("an image"),
            database: database.parse().expect("a name"),
            username: "postgres".parse().expect("a name"),
            password: Password::new("p").expect("a password"),
            limits: Limits::new(512, 1000).expect("limits"),
            durable: false,
            ttl: None,
        }
    }

    fn on_trial(rules: Canned) -> Monitored {
        Monitored::new(Arc::new(rules), Arc::new(Canned::planning(spec("built_in"))))
    }

    async fn database(policy: &dyn Policy) -> String {
        let defaults = Defaults {
            image: Image::new("postgres", "17").expect("an image"),
            limits: Limits::new(512, 1000).expect("limits"),
            durable: false,
        };
        let planned = policy
            .plan_create(
                &CreateRequest::default(),
                &defaults,
                &Caller::default(),
                Arc::new(Empty),
            )
            .await;
        planned.expect("it is let through").database.as_str().to_owned()
    }

    #[tokio::test]
    async fn a_plan_holds_and_where_there_is_none_the_built_in_rules_do() {
        assert_eq!(database(&on_trial(Canned::planning(spec("theirs")))).await, "theirs");
        for rejection in [
            Rejection::Denied("no".into()),
            Rejection::Broken("trapped".into()),
            Rejection::Invalid(Vec::new()),
        ] {
            assert_eq!(database(&on_trial(Canned::rejecting(rejection))).await, "built_in");
        }
    }

    #[tokio::test]
    async fn every_action_is_let_through_and_every_instance_is_seen() {
        for rejection in [Rejection::Denied("no".into()), Rejection::Broken("trapped".into())] {
            let policy = on_trial(Canned::rejecting(rejection));
            let (target, caller) = (instance(), Caller::default());
            for action in [Action::Get, Action::List, Action::Drop, Action::Health] {
                let verdict = policy.authorize(action, &target, &caller, Arc::new(Empty)).await;
                assert_eq!(verdict, Ok(()));
            }
            let targets = [target.clone(), target];
            let verdicts = policy
                .authorize_each(Action::List, &targets, &caller, Arc::new(Empty))
                .await;
            assert_eq!(verdicts, Ok(vec![Ok(()), Ok(())]));
        }
    }

    #[test]
    fn a_reason_that_repeats_the_password_is_told_without_it() {
        let request = CreateRequest {
            password: Some(SecretString::from("planted")),
            ..CreateRequest::default()
        };
        assert_eq!(
            without_password("planted is weak".into(), &request),
            "[redacted] is weak"
        );
        assert_eq!(without_password("no".into(), &CreateRequest::default()), "no");
    }
}
