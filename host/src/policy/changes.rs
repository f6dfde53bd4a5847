//! What a policy may make something else of than was asked for or is configured, and whether it keeps to that.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;

use super::{Action, Inventory, Policy, Rejection};
use crate::instance::{
    Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceSpec, InvalidValue, Ttl,
};

/// One thing about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The image repository, which is configured.
    Repository,
    /// The PostgreSQL version that a request names.
    Version,
    /// The database that a request names.
    Database,
    /// The user that a request names.
    Username,
    /// The password that a request names.
    Password,
    /// The memory limit, which is configured.
    Memory,
    /// The CPU limit, which is configured.
    Cpus,
    /// Whether data is durable, which is configured.
    Durable,
    /// The time to live that a request names.
    Ttl,
}

impl Change {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 9] = [
        Self::Repository,
        Self::Version,
        Self::Database,
        Self::Username,
        Self::Password,
        Self::Memory,
        Self::Cpus,
        Self::Durable,
        Self::Ttl,
    ];

    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Version => "version",
            Self::Database => "database",
            Self::Username => "username",
            Self::Password => "password",
            Self::Memory => "memory_mib",
            Self::Cpus => "cpus",
            Self::Durable => "durable",
            Self::Ttl => "ttl_seconds",
        }
    }

    /// Whether a plan has it otherwise than the request, or than the defaults where a request can't name it. What a request
    /// leaves open is not changed by choosing it.
    fn is_in(self, spec: &InstanceSpec, request: &CreateRequest, defaults: &Defaults) -> bool {
        let differs = |asked: Option<&str>, planned: &str| asked.is_some_and(|asked| asked != planned);
        match self {
            Self::Repository => spec.image.repository() != defaults.image.repository(),
            Self::Version => differs(request.version.as_deref(), spec.image.version()),
            Self::Database => differs(request.database.as_deref(), spec.database.as_str()),
            Self::Username => differs(request.username.as_deref(), spec.username.as_str()),
            Self::Password => {
                let asked = request.password.as_ref().map(ExposeSecret::expose_secret);
                differs(asked, spec.password.expose())
            }
            Self::Memory => spec.limits.memory_mib() != defaults.limits.memory_mib(),
            Self::Cpus => spec.limits.cpu_millis() != defaults.limits.cpu_millis(),
            Self::Durable => spec.durable != defaults.durable,
            Self::Ttl => request
                .ttl_seconds
                .is_some_and(|asked| spec.ttl.is_none_or(|planned| planned.seconds() != asked)),
        }
    }
}

impl FromStr for Change {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|change| change.as_str() == text);
        known.ok_or_else(Changes::expected)
    }
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes(u16);

impl Changes {
    const ALL: Self = Self(u16::MAX);

    /// What a plan has otherwise than it was asked for or is configured.
    #[must_use]
    pub fn of(spec: &InstanceSpec, request: &CreateRequest, defaults: &Defaults) -> Self {
        let changed = Change::ALL.into_iter();
        changed.filter(|change| change.is_in(spec, request, defaults)).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether `change` is among them.
    #[must_use]
    pub fn has(self, change: Change) -> bool {
        self.0 & 1 << change as u16 != 0
    }

    /// Them one by one, in the order in which they are documented.
    pub fn iter(self) -> impl Iterator<Item = Change> {
        Change::ALL.into_iter().filter(move |change| self.has(*change))
    }

    /// What a configuration that has something else is told.
    pub(crate) fn expected() -> InvalidValue {
        InvalidValue(format!("must be a list of these: {}", Self::ALL))
    }
}

impl FromIterator<Change> for Changes {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        Self(changes.into_iter().fold(0, |set, change| set | 1 << change as u16))
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Change::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Rules whose plans change no more than they may.
#[derive(Debug)]
pub struct Bounded {
    rules: Arc<dyn Policy>,
    may_change: Changes,
}

impl Bounded {
    /// Of what is asked for, `rules` may change this.
    #[must_use]
    pub fn new(rules: Arc<dyn Policy>, may_change: Changes) -> Self {
        Self { rules, may_change }
    }
}

#[async_trait]
impl Policy for Bounded {
    async fn plan_create(
        &self,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, Rejection> {
        let spec = self.rules.plan_create(request, defaults, caller, inventory).await?;
        let changes = Changes::of(&spec, request, defaults).iter();
        let beyond: Changes = changes.filter(|change| !self.may_change.has(*change)).collect();
        if beyond.is_empty() {
            return Ok(spec);
        }
        tracing::error!(%beyond, "the policy changes what its `may_change` in the configuration doesn't have");
        Err(Rejection::Broken(format!(
            "its plan changes what it may not change: {beyond}"
        )))
    }

    async fn plan_extend(
        &self,
        target: &Instance,
        ttl_seconds: Option<u64>,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Ttl, Rejection> {
        let ttl = self.rules.plan_extend(target, ttl_seconds, caller, inventory).await?;
        if ttl_seconds.is_some_and(|asked| asked != ttl.seconds()) && !self.may_change.has(Change::Ttl) {
            tracing::error!("the policy changes ttl_seconds, which its `may_change` in the configuration doesn't have");
            return Err(Rejection::Broken(format!(
                "its answer changes what it may not change: {}",
                Change::Ttl.as_str()
            )));
        }
        Ok(ttl)
    }

    async fn authorize(
        &self,
        action: Action,
        target: &Instance,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<(), Rejection> {
        self.rules.authorize(action, target, caller, inventory).await
    }

    async fn authorize_each(
        &self,
        action: Action,
        targets: &[Instance],
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        self.rules.authorize_each(action, targets, caller, inventory).await
    }

    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection> {
        self.rules.connection_uri(found).await
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::instance::{Image, Limits, Password};
    use crate::policy::canned::{Canned, Empty, instance};

    fn defaults() -> Defaults {
        Defaults {
            image: Image::new("postgres", "17").expect("an image"),
            limits: Limits::new(512, 1000).expect("limits"),
            durable: false,
        }
    }

    fn spec() -> InstanceSpec {
        InstanceSpec {
            image: Image::new("ghcr.io/acme/postgres", "16").expect("an image"),
            database: "team_app".parse().expect("a name"),
            username: "team".parse().expect("a name"),
            password: Password::new("theirs").expect("a password"),
            limits: Limits::new(256, 500).expect("limits"),
            durable: true,
            ttl: Some(Ttl::from_seconds(60).expect("a time")),
        }
    }

    fn request() -> CreateRequest {
        CreateRequest {
            version: Some("17".into()),
            database: Some("app".into()),
            username: Some("me".into()),
            password: Some(SecretString::from("mine")),
            ttl_seconds: Some(3600),
        }
    }

    async fn plan(request: &CreateRequest, may_change: Changes) -> Result<InstanceSpec, Rejection> {
        let rules = Bounded::new(Arc::new(Canned::planning(spec())), may_change);
        let (defaults, caller) = (defaults(), Caller::default());
        rules.plan_create(request, &defaults, &caller, Arc::new(Empty)).await
    }

    #[tokio::test]
    async fn a_plan_that_changes_what_it_may_not_is_refused_with_all_of_that_and_no_value() {
        let refused = plan(&request(), Changes::default())
            .await
            .expect_err("it may change nothing");
        insta::assert_snapshot!(refused, @"the policy gave no valid answer, so nothing is allowed: its plan changes what it may not change: repository, version, database, username, password, memory_mib, cpus, durable, ttl_seconds");
        for change in Change::ALL {
            let others: Changes = Change::ALL.into_iter().filter(|other| *other != change).collect();
            let Err(Rejection::Broken(reason)) = plan(&request(), others).await else {
                panic!("{change:?} was changed");
            };
            assert!(reason.ends_with(&format!(": {}", change.as_str())), "{reason}");
        }
        assert!(plan(&request(), Changes::ALL).await.is_ok());
    }

    #[tokio::test]
    async fn what_a_request_leaves_open_is_the_policys_to_choose() {
        let configured = [Change::Repository, Change::Memory, Change::Cpus, Change::Durable];
        let open = CreateRequest::default();
        assert!(plan(&open, configured.into_iter().collect()).await.is_ok());
        assert!(plan(&open, Changes::default()).await.is_err());
    }

    #[test]
    fn each_has_a_name_and_no_other_word_is_one() {
        for change in Change::ALL {
            assert_eq!(change.as_str().parse(), Ok(change));
        }
        let refused = "memory".parse::<Change>().expect_err("no such thing");
        insta::assert_snapshot!(refused, @"must be a list of these: repository, version, database, username, password, memory_mib, cpus, durable, ttl_seconds");
    }

    #[tokio::test]
    async fn another_time_to_live_than_was_asked_for_takes_a_grant() {
        let extend = async |asked, may_change| {
            let rules = Bounded::new(Arc::new(Canned::planning(spec())), may_change);
            rules
                .plan_extend(&instance(), asked, &Caller::default(), Arc::new(Empty))
                .await
        };
        let ttl = spec().ttl.expect("the plan has one");
        let other = Some(ttl.seconds() + 1);
        let refused = extend(other, Changes::default()).await.expect_err("it may not");
        insta::assert_snapshot!(refused, @"the policy gave no valid answer, so nothing is allowed: its answer changes what it may not change: ttl_seconds");
        assert_eq!(extend(other, [Change::Ttl].into_iter().collect()).await, Ok(ttl));
        assert_eq!(extend(Some(ttl.seconds()), Changes::default()).await, Ok(ttl));
        assert_eq!(extend(None, Changes::default()).await, Ok(ttl));
    }
}
