//! What was measured: every single figure, where and how it was come by.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// Everything that a run of the benchmark has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where and of what: a name and a value each.
    pub(super) about: Vec<(String, String)>,
    /// The figures, in the order in which they are shown.
    pub(super) series: Vec<Series>,
    /// Where the time of single creates went: a title and a picture in text.
    pub(super) waterfalls: Vec<(String, String)>,
}

/// One thing that was measured, again and again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) section: Section,
    pub(super) unit: Unit,
    /// The name of what it is to be compared with.
    pub(super) against: Option<String>,
    /// In the order in which they came.
    pub(super) samples: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Section {
    /// From the call to the first answered query.
    Create,
    /// All else.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Unit {
    Milliseconds,
    Mebibytes,
}

impl Unit {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        }
    }
}

impl Series {
    /// The value that the share `q` of the samples doesn't exceed, interpolated between neighbours; `None` without samples.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = u32::try_from(sorted.len().checked_sub(1)?).ok()?;
        let at = q * f64::from(last);
        let (below, above) = (at.floor(), at.ceil());
        let value = |at: f64| {
            // A whole number, not negative and at most `last`.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let index = at as usize;
            sorted.get(index).copied()
        };
        let (low, high) = (value(below)?, value(above)?);
        Some(low + (high - low) * (at - below))
    }

    pub(super) fn p50(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

impl Results {
    /// Nothing measured yet.
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            about: Vec::new(),
            series: catalogue(plan),
            waterfalls: Vec::new(),
        }
    }

    /// What a run before has written.
    ///
    /// # Errors
    /// If it isn't there, or isn't that.
    pub fn read(file: &Path) -> Result<Self, String> {
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| problem(&error))?;
        serde_json::from_str(&text).map_err(|error| problem(&error))
    }

    pub(super) fn record(&mut self, name: &str, sample: f64) {
        let series = self.series.iter_mut().find(|series| series.name == name);
        series.expect("it is in the catalogue").samples.push(sample);
    }

    /// What was measured under this name, if it was.
    pub(super) fn get(&self, name: &str) -> Option<&Series> {
        let mut measured = self.series.iter().filter(|series| !series.samples.is_empty());
        measured.find(|series| series.name == name)
    }

    pub(super) fn p50(&self, name: &str) -> Option<f64> {
        self.get(name)?.p50()
    }

    pub(super) fn of(&self, section: Section) -> impl Iterator<Item = &Series> {
        let all = self.series.iter();
        all.filter(move |series| series.section == section && !series.samples.is_empty())
    }
}

/// All that there is to measure.
fn catalogue(plan: &Plan) -> Vec<Series> {
    let create = |name: &str, what: &str| Series {
        name: name.into(),
        what: what.into(),
        section: Section::Create,
        unit: Unit::Milliseconds,
        against: None,
        samples: Vec::new(),
    };
    let other = |name: &str, what: &str, against: Option<&str>| Series {
        section: Section::Other,
        against: against.map(Into::into),
        ..create(name, what)
    };
    let memory = |name: &str, what: &str, against: Option<&str>| Series {
        unit: Unit::Mebibytes,
        ..other(name, what, against)
    };
    let mut all = vec![
        create("docker-run", "Docker's floor: `docker run -d`, idle, until it returns"),
        create("docker-run-data", "`docker run -d`, data directory initialised before"),
        create("entrypoint", "`docker run -d` of the official image"),
        create("testcontainers", "Testcontainers"),
        create("docker-warm", "**ours, Docker, warm**"),
        create("docker-cold", "**ours, Docker, cold**"),
        create("docker-first", "**ours, Docker, first of its image**"),
        create("local-run", "the local floor: `cp` of a data directory, `postgres`"),
        create("local-warm", "**ours, local, warm**"),
        create("local-cold", "**ours, local, cold**"),
        create("local-first", "**ours, local, first of its version**"),
        other("query", "connecting and `SELECT 1`, on a running server", None),
        other("docker-rm", "`docker rm -f -v` of a server", None),
        other("docker-drop", "**drop, Docker**", Some("docker-rm")),
        other("local-drop", "**drop, local**", Some("docker-rm")),
    ];
    for count in plan.burst_sizes {
        let floor = format!("docker-run-at-once-{count}");
        all.push(other(
            &floor,
            &format!("{count} × `docker run -d`, idle, at once"),
            None,
        ));
        for (name, what) in [("docker", "Docker"), ("local", "local")] {
            let (name, what) = (
                format!("{name}-at-once-{count}"),
                format!("**{count} × create at once, {what}, cold**"),
            );
            all.push(other(&name, &what, Some(&floor)));
        }
    }
    for count in plan.listed {
        let bare = format!("docker-list-{count}");
        let what = format!("`GET /containers/json` for {count} instances");
        all.push(other(&bare, &what, None));
        let what = format!("**list of {count}, Docker**");
        all.push(other(&format!("list-{count}"), &what, Some(&bare)));
    }
    all.extend([
        other("start", "**start until `initialize` is answered**", None),
        other(
            "start-first",
            "**start until `initialize` is answered, first ever**",
            Some("start"),
        ),
        other("sandbox-get", "**a call on an engine that does nothing: get**", None),
        other(
            "sandbox-list",
            "**a call on an engine that does nothing: list of 1**",
            None,
        ),
        memory("memory-idle", "**resident, idle server**", None),
        memory(
            "memory-used",
            "**resident, after its first creates**",
            Some("memory-idle"),
        ),
        memory(
            "memory-churned",
            &format!("**resident, after {} more**", plan.churn),
            Some("memory-used"),
        ),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[f64]) -> Series {
        Series {
            name: "a".into(),
            what: "a".into(),
            section: Section::Create,
            unit: Unit::Milliseconds,
            against: None,
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn quantiles_are_between_the_samples_next_to_them_whatever_their_order() {
        let five = series(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        for (q, value) in [(0.0, 1.0), (0.5, 3.0), (0.95, 4.8), (1.0, 5.0)] {
            let seen = five.quantile(q).expect("there are samples");
            assert!((seen - value).abs() < 1e-9, "{q}: {seen}");
        }
        assert_eq!(series(&[7.0]).quantile(0.95), Some(7.0));
        assert_eq!(series(&[]).quantile(0.5), None);
    }
}
