//! What the figures should be, and whether they are.

use super::results::Results;

/// The most that a figure may be.
#[derive(Debug, Clone, Copy)]
enum AtMost {
    /// So much, in the unit of what is measured.
    This(f64),
    /// So many times the median of something else.
    Times(f64, &'static str),
}

/// A bound for one figure.
#[derive(Debug)]
struct Goal {
    name: &'static str,
    /// Which of the samples, from 0.5, the median, to 1, the worst.
    quantile: f64,
    at_most: AtMost,
}

const fn median(name: &'static str, at_most: AtMost) -> Goal {
    Goal {
        name,
        quantile: 0.5,
        at_most,
    }
}

const GOALS: [Goal; 15] = [
    median("docker-cold", AtMost::Times(1.3, "docker-run")),
    median("docker-cold", AtMost::Times(1.0 / 3.5, "entrypoint")),
    median("docker-warm", AtMost::This(25.0)),
    Goal {
        name: "docker-warm",
        quantile: 0.99,
        at_most: AtMost::This(80.0),
    },
    median("docker-first", AtMost::Times(1.6, "entrypoint")),
    median("docker-drop", AtMost::Times(1.15, "docker-rm")),
    median("docker-at-once-16", AtMost::Times(1.3, "docker-run-at-once-16")),
    median("list-100", AtMost::Times(1.5, "docker-list-100")),
    median("local-cold", AtMost::Times(1.3, "local-run")),
    median("start", AtMost::This(20.0)),
    median("start-first", AtMost::This(120.0)),
    median("sandbox-get", AtMost::This(0.2)),
    median("sandbox-list", AtMost::This(0.2)),
    median("memory-idle", AtMost::This(60.0)),
    // What an allocator may keep.
    median("memory-churned", AtMost::Times(1.1, "memory-used")),
];

/// One goal and what became of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) what: String,
    pub(super) asked: String,
    pub(super) seen: String,
    pub(super) met: bool,
}

/// Of the goals whose figures were measured.
pub(super) fn outcomes(results: &Results) -> Vec<Outcome> {
    GOALS.iter().filter_map(|goal| outcome(goal, results)).collect()
}

fn outcome(goal: &Goal, results: &Results) -> Option<Outcome> {
    let series = results.get(goal.name)?;
    let value = series.quantile(goal.quantile)?;
    let (most, asked, seen) = match goal.at_most {
        AtMost::This(most) => {
            let unit = series.unit.symbol();
            (most, format!("≤ {most} {unit}"), format!("{value:.3} {unit}"))
        }
        AtMost::Times(times, other) => {
            let base = results.get(other)?;
            let (what, base) = (base.what.replace("**", ""), base.p50()?);
            let seen = value / base;
            // "3.5 times as fast" says more than "0.29 of the time".
            let (asked, seen) = if times < 1.0 {
                (
                    format!("≥ {:.1} times as fast as: {what}", times.recip()),
                    format!("{:.2} times", seen.recip()),
                )
            } else {
                (format!("≤ {times} × {what}"), format!("{seen:.2} ×"))
            };
            (times * base, asked, seen)
        }
    };
    let which = if goal.quantile > 0.5 { ", p99" } else { "" };
    Some(Outcome {
        what: format!("{}{which}", series.what.replace("**", "")),
        asked,
        seen,
        met: value <= most,
    })
}
