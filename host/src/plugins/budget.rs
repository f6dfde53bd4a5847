//! What a component may use in one call, and what of that the configuration may change.

use std::time::Duration;

use serde_json::Value;

use crate::instance::InvalidValue;

/// What a component may use in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Memory in bytes: all linear memories and tables together.
    pub memory_bytes: usize,
    /// Time spent computing, to about 10 ms.
    pub cpu: Duration,
    /// Time from entry to answer, waiting for the host included.
    pub wall: Duration,
    /// The longest answer in bytes, be it a result or a failure.
    pub output_bytes: usize,
    /// The longest text that goes to the log in bytes, with something for each line.
    pub log_bytes: usize,
    /// Data that it gives to the host and gets from it, its arguments and its answer aside, in bytes.
    pub host_bytes: usize,
    /// Calls of the host's functions.
    pub host_calls: usize,
    /// Instances that it has created, whether that succeeds or not.
    pub instances: usize,
}

impl Budget {
    /// For a policy: it only computes.
    pub const POLICY: Self = Self {
        memory_bytes: 64 << 20,
        cpu: Duration::from_secs(1),
        wall: Duration::from_secs(10),
        output_bytes: 64 << 10,
        log_bytes: 16 << 10,
        host_bytes: 1 << 20,
        host_calls: 1000,
        instances: 0,
    };

    /// For a tool bundle: it waits for the host. `wall` has room for a create that pulls an image first.
    pub const BUNDLE: Self = Self {
        memory_bytes: 64 << 20,
        cpu: Duration::from_secs(2),
        wall: Duration::from_mins(15),
        output_bytes: 1 << 20,
        log_bytes: 64 << 10,
        host_bytes: 8 << 20,
        host_calls: 10_000,
        instances: 10,
    };
}

/// How long a component may take to check its settings or to describe itself, whatever its budget: the start of a server waits
/// for that.
pub(super) const LOAD_WALL: Duration = Duration::from_secs(10);
/// How much stack a guest has, in bytes: the runtime's own default. Unlike the rest it is no memory of the call's own.
pub(super) const STACK_BYTES: usize = 512 << 10;

/// One thing that a budget limits.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// For people.
    pub what: &'static str,
    /// Its name in `limits` of a bundle's configuration, with its unit.
    pub key: &'static str,
    /// Its unit and how much the configuration may give.
    pub range: Range,
    get: fn(&Budget) -> Amount,
    set: fn(&mut Budget, Amount),
}

/// How much the configuration may give, both ends included.
#[derive(Debug, Clone, Copy)]
pub enum Range {
    /// A number, each of them so many bytes (or 1, where bytes aren't counted).
    Count {
        /// At least.
        min: usize,
        /// At most.
        max: usize,
        /// What one of them is in the budget.
        unit: usize,
    },
    /// A time.
    Time {
        /// At least.
        min: Duration,
        /// At most.
        max: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Count(usize),
    Time(Duration),
}

macro_rules! limit {
    ($what:literal, $key:literal, $range:expr, $kind:ident $field:ident) => {
        Limit {
            what: $what,
            key: $key,
            range: $range,
            get: |budget| Amount::$kind(budget.$field),
            set: |budget, amount| {
                if let Amount::$kind(amount) = amount {
                    budget.$field = amount;
                }
            },
        }
    };
}

const fn count(min: usize, max: usize, unit: usize) -> Range {
    Range::Count { min, max, unit }
}

/// Everything that a budget limits, in the order in which it is documented.
pub const LIMITS: [Limit; 8] = [
    limit!("Memory", "memory_mib", count(1, 1024, 1 << 20), Count memory_bytes),
    limit!(
        "Time spent computing",
        "cpu",
        Range::Time { min: Duration::from_millis(10), max: Duration::from_mins(1) },
        Time cpu
    ),
    limit!(
        "Time until it answers, waiting included",
        "time",
        Range::Time { min: Duration::from_millis(10), max: Duration::from_hours(24) },
        Time wall
    ),
    limit!("Answer", "output_kib", count(1, 16 << 10, 1 << 10), Count output_bytes),
    limit!("Log", "log_kib", count(0, 1 << 10, 1 << 10), Count log_bytes),
    limit!("Data to and from the host", "host_data_kib", count(1, 64 << 10, 1 << 10), Count host_bytes),
    limit!("Calls of the host", "host_calls", count(0, 1_000_000, 1), Count host_calls),
    limit!("Instances created", "instances", count(0, 100, 1), Count instances),
];

impl Limit {
    /// What a budget has of it, for people: "64 MiB", "2 s", "10".
    #[must_use]
    pub fn shown(&self, budget: &Budget) -> String {
        match ((self.get)(budget), self.range) {
            (Amount::Time(time), _) => humantime::format_duration(time).to_string(),
            (Amount::Count(count), Range::Count { unit: 1, .. }) => count.to_string(),
            (Amount::Count(bytes), _) => size(bytes),
        }
    }

    /// What a budget has of it, as the configuration would have it: 64, "2s".
    #[must_use]
    pub fn value(&self, budget: &Budget) -> Value {
        match ((self.get)(budget), self.range) {
            (Amount::Time(time), _) => humantime::format_duration(time).to_string().into(),
            (Amount::Count(count), Range::Count { unit, .. }) => (count / unit).into(),
            (Amount::Count(count), Range::Time { .. }) => count.into(),
        }
    }

    /// The most that the configuration may give, for people.
    #[must_use]
    pub fn shown_max(&self) -> String {
        match self.range {
            Range::Time { max, .. } => humantime::format_duration(max).to_string(),
            Range::Count { max, unit: 1, .. } => max.to_string(),
            Range::Count { max, unit, .. } => size(max * unit),
        }
    }

    /// Changes a budget to what the configuration says.
    ///
    /// # Errors
    /// What is expected, where the value is something else.
    pub fn apply(&self, value: &Value, budget: &mut Budget) -> Result<(), InvalidValue> {
        let amount = match self.range {
            Range::Count { min, max, unit } => value
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| (min..=max).contains(count))
                .map(|count| Amount::Count(count * unit))
                .ok_or_else(|| format!("must be a whole number from {min} to {max}")),
            Range::Time { min, max } => value
                .as_str()
                .and_then(|text| humantime::parse_duration(text).ok())
                .filter(|time| (min..=max).contains(time))
                .map(Amount::Time)
                .ok_or_else(|| {
                    let [min, max] = [min, max].map(humantime::format_duration);
                    format!("must be a time from {min} to {max}, such as \"500ms\"")
                }),
        };
        (self.set)(budget, amount.map_err(InvalidValue)?);
        Ok(())
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

/// What a call ran out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overrun {
    /// Linear memory.
    #[error("{} of memory", size(*.0))]
    Memory(usize),
    /// Calls within calls.
    #[error("{} of stack", size(STACK_BYTES))]
    Stack,
    /// Time spent computing.
    #[error("{} s of CPU time", .0.as_secs_f32())]
    Cpu(Duration),
    /// Time from entry to answer.
    #[error("{} s from call to answer", .0.as_secs_f32())]
    Wall(Duration),
    /// The answer's size.
    #[error("{0} bytes of output")]
    Output(usize),
    /// What it logs.
    #[error("{} of log", size(*.0))]
    Log(usize),
    /// Data to and from the host.
    #[error("{} of data to and from the host", size(*.0))]
    HostBytes(usize),
    /// Calls of the host's functions.
    #[error("{0} calls of the host")]
    HostCalls(usize),
    /// Instances created.
    #[error("{0} instances created")]
    Instances(usize),
}

impl Overrun {
    /// The name of what ran out in `limits` of a bundle's configuration, if it is there.
    #[must_use]
    pub fn key(self) -> Option<&'static str> {
        Some(match self {
            Self::Memory(_) => "memory_mib",
            Self::Stack => return None,
            Self::Cpu(_) => "cpu",
            Self::Wall(_) => "time",
            Self::Output(_) => "output_kib",
            Self::Log(_) => "log_kib",
            Self::HostBytes(_) => "host_data_kib",
            Self::HostCalls(_) => "host_calls",
            Self::Instances(_) => "instances",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_call_ran_out_of_is_named_as_the_limit_that_gives_more() {
        let overruns = [
            Overrun::Memory(1),
            Overrun::Cpu(Duration::ZERO),
            Overrun::Wall(Duration::ZERO),
            Overrun::Output(1),
            Overrun::Log(1),
            Overrun::HostBytes(1),
            Overrun::HostCalls(1),
            Overrun::Instances(1),
        ];
        assert_eq!(overruns.map(Overrun::key), LIMITS.map(|limit| Some(limit.key)));
    }

    #[test]
    fn every_limit_changes_its_own_part_of_a_budget_within_its_bounds() {
        let values = [
            (json!(128), json!(1025)),
            (json!("500ms"), json!("2m")),
            (json!("1m"), json!(60)),
            (json!(64), json!(0)),
            (json!(0), json!(1025)),
            (json!(64), json!(-1)),
            (json!(0), json!(1.5)),
            (json!(0), json!(101)),
        ];
        let mut budget = Budget::BUNDLE;
        for (limit, (fits, does_not)) in LIMITS.iter().zip(&values) {
            let before = LIMITS.map(|limit| (limit.get)(&budget));
            limit.apply(fits, &mut budget).expect("it fits");
            for (other, before) in LIMITS.iter().zip(before) {
                assert_eq!(
                    (other.get)(&budget) == before,
                    other.key != limit.key,
                    "{} and {}",
                    limit.key,
                    other.key
                );
            }
            assert!(
                limit.apply(does_not, &mut budget).is_err(),
                "{} took {does_not}",
                limit.key
            );
        }
        let changed = Budget {
            memory_bytes: 128 << 20,
            cpu: Duration::from_millis(500),
            wall: Duration::from_mins(1),
            output_bytes: 64 << 10,
            log_bytes: 0,
            host_bytes: 64 << 10,
            host_calls: 0,
            instances: 0,
        };
        assert_eq!(budget, changed);
        for limit in LIMITS {
            let mut again = Budget::POLICY;
            limit
                .apply(&limit.value(&budget), &mut again)
                .expect("it is read as it is written");
            assert_eq!((limit.get)(&again), (limit.get)(&budget), "{}", limit.key);
        }
    }
}
