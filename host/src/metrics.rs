//! What this process counts, for Prometheus. Like the log, there is one for the process, and whatever happens is told it
//! where it happens.
//!
//! Every label has few values: words of this program and names from the configuration, never what a client or a guest
//! says.

pub mod endpoint;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::config::Mode;
use crate::instance::{Instance, InvalidValue};

/// This process's figures.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// What the names of all figures begin with.
const PREFIX: &str = "dev_postgres_mcp";
/// Bounds of the durations of creates in seconds: from one that a waiting server is taken for to one that pulls an image.
const CREATE_SECONDS: [f64; 12] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// Counts what happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    creates: Family<Labels<1>, Histogram, fn() -> Histogram>,
    pool_waiting: Gauge,
    pool_started: Counter,
    pool_taken: Counter,
    templates_made: Counter,
    reaped: Family<Labels<2>, Counter>,
    policy_denials: Family<Labels<3>, Counter>,
    guest_failures: Family<Labels<2>, Counter>,
    instances: Family<Labels<2>, Gauge>,
    /// Held while they are set and read: two may ask at once.
    reading: Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            creates: Family::new_with_constructor(|| Histogram::new(CREATE_SECONDS)),
            pool_waiting: Gauge::default(),
            pool_started: Counter::default(),
            pool_taken: Counter::default(),
            templates_made: Counter::default(),
            reaped: Family::default(),
            policy_denials: Family::default(),
            guest_failures: Family::default(),
            instances: Family::default(),
            reading: Mutex::default(),
        };
        let build: Family<Labels<1>, Gauge> = Family::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION").into())])
            .set(1);
        let registry = &mut metrics.registry;
        registry.register("build_info", "Which build this is; always 1", build);
        registry.register(
            "create_duration_seconds",
            "How long creates took, by how they ended: created, cancelled, or a failure's code",
            metrics.creates.clone(),
        );
        registry.register(
            "instances",
            "Instances that there are now, whoever made them, by engine and status",
            metrics.instances.clone(),
        );
        registry.register(
            "pool_waiting",
            "Servers that wait to become an instance",
            metrics.pool_waiting.clone(),
        );
        registry.register(
            "pool_started",
            "Servers that were started ahead",
            metrics.pool_started.clone(),
        );
        registry.register(
            "pool_taken",
            "Servers that a create found waiting",
            metrics.pool_taken.clone(),
        );
        registry.register(
            "templates_made",
            "Templates that were made",
            metrics.templates_made.clone(),
        );
        registry.register(
            "reaped",
            "What was removed by itself, by kind (instance, server, template) and reason (expired, orphan)",
            metrics.reaped.clone(),
        );
        registry.register(
            "policy_denials",
            "What the policy has not allowed, by action, by whether its rules or its failure denied it, and by its mode: in \
             the mode monitor it was done all the same",
            metrics.policy_denials.clone(),
        );
        registry.register(
            "guest_failures",
            "Calls that ended by a fault of the component, by component and fault",
            metrics.guest_failures.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// A create begins; it is counted when what this returns is told its end, or is dropped.
    pub fn creating(&self) -> Creating<'_> {
        Creating {
            metrics: self,
            began: Instant::now(),
            outcome: "cancelled",
        }
    }

    /// A server waits to become an instance, for as long as what this returns is held.
    #[must_use]
    pub fn pool_waiting(&self) -> PoolWaiting {
        self.pool_started.inc();
        self.pool_waiting.inc();
        PoolWaiting(self.pool_waiting.clone())
    }

    /// A create has found a server that waited.
    pub fn pool_taken(&self) {
        self.pool_taken.inc();
    }

    /// A template was made.
    pub fn template_made(&self) {
        self.templates_made.inc();
    }

    /// Something was removed that nobody had dropped; `kind` and `reason` are each one of a few words.
    pub fn reaped(&self, kind: &'static str, reason: &'static str) {
        let labels = [("kind", kind.into()), ("reason", reason.into())];
        self.reaped.get_or_create(&labels).inc();
    }

    /// The policy has denied an action: `create`, `extend`, or what an [`Action`](crate::policy::Action) is called. `by_failure`: it is the policy itself that is at fault.
    pub fn policy_denied(&self, action: &'static str, by_failure: bool) {
        self.denied(action, by_failure, Mode::Enforce);
    }

    /// The policy would have denied an action, and only monitors.
    pub fn policy_monitored(&self, action: &'static str, by_failure: bool) {
        self.denied(action, by_failure, Mode::Monitor);
    }

    fn denied(&self, action: &'static str, by_failure: bool, mode: Mode) {
        let cause = if by_failure { "failure" } else { "rules" };
        let labels = [
            ("action", action.into()),
            ("cause", cause.into()),
            ("mode", mode.as_str().into()),
        ];
        self.policy_denials.get_or_create(&labels).inc();
    }

    /// A component has failed in a call; `fault` is one of a few words.
    pub fn guest_failed(&self, component: &str, fault: &'static str) {
        let labels = [("component", component.to_owned().into()), ("fault", fault.into())];
        self.guest_failures.get_or_create(&labels).inc();
    }

    /// All figures in the text format that Prometheus and `OpenMetrics` have in common. Without `instances` nobody knows
    /// how many there are.
    ///
    /// # Errors
    /// None that a string could cause.
    pub(crate) fn text(&self, instances: Option<&[Instance]>) -> Result<String, fmt::Error> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.instances.clear();
        for instance in instances.into_iter().flatten() {
            let labels = [
                ("engine", instance.engine.as_str().into()),
                ("status", instance.status.as_str().into()),
            ];
            self.instances.get_or_create(&labels).inc();
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A create under way.
#[derive(Debug)]
#[must_use = "it is counted when it is dropped"]
pub struct Creating<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: &'static str,
}

impl Creating<'_> {
    /// It has ended; `outcome` is one of a few words.
    pub fn ended(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        let labels = [("outcome", self.outcome.into())];
        self.metrics.creates.get_or_create(&labels).observe(took);
    }
}

/// A server that waits to become an instance.
#[derive(Debug)]
pub struct PoolWaiting(Gauge);

impl Drop for PoolWaiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A port of this machine that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddress(SocketAddr);

impl fmt::Display for LoopbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LoopbackAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self(address)),
            Ok(_) => Err(InvalidValue(
                "must be an address on loopback, such as 127.0.0.1:9187: there is no password, so nobody else is served"
                    .into(),
            )),
            Err(_) => Err(InvalidValue("must be an address with a port, such as 127.0.0.1:9187, or empty".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::Status;

    #[test]
    fn what_happens_is_counted_and_told_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        metrics.creating().ended("created");
        drop(metrics.creating());
        let waits = metrics.pool_waiting();
        drop(metrics.pool_waiting());
        metrics.pool_taken();
        metrics.template_made();
        metrics.reaped("instance", "expired");
        metrics.policy_denied("create", false);
        metrics.policy_denied("drop", true);
        metrics.guest_failed("acme \"tools\"", "trap");
        let (engine, _) = FakeEngine::default().with_instance(Status::Running);
        let found = engine.instances.lock().expect("unpoisoned")[0].instance.clone();
        metrics.text(Some(&[found.clone(), found.clone()])).expect("text");
        let text = metrics.text(Some(&[found])).expect("text");
        drop(waits);
        // How long it took is the machine's affair, and within a family the order is nobody's.
        let timeless = |line: &&str| !line.contains("_bucket") && !line.contains("_sum");
        let mut lines: Vec<&str> = text.lines().filter(timeless).collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
        assert!(!metrics.text(None).expect("text").contains("instances{"));
    }

    #[test]
    fn only_addresses_on_loopback_are_taken() {
        for text in ["127.0.0.1:9187", "127.1.2.3:0", "[::1]:9187"] {
            assert!(text.parse::<LoopbackAddress>().is_ok(), "{text}");
        }
        for text in ["0.0.0.0:9187", "[::]:9187", "192.0.2.1:9187", "[::ffff:127.0.0.1]:1"] {
            let error = text.parse::<LoopbackAddress>().expect_err("others reach it");
            assert!(error.to_string().contains("no password"), "{error}");
        }
        for text in ["", "9187", "localhost:9187", "127.0.0.1", "127.0.0.1:65536"] {
            let error = text.parse::<LoopbackAddress>().expect_err("no address");
            assert!(error.to_string().contains("with a port"), "{error}");
        }
    }
}
