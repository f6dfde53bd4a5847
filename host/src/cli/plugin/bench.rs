//! `plugin bench`.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Call, call, find};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::Failure;
use crate::plugins::transcript::Transcript;

/// Measure how fast a tool is and how much memory it takes, on a host that only pretends
///
/// It is called again and again, one call after the other, as `plugin run` calls it: what is measured is the bundle with
/// its sandbox and none of what a real host would do for it.
#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    call: Call,

    /// How long it is called: 500ms, 10s
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    time: Duration,
}

/// What was measured.
#[derive(Debug, PartialEq, Serialize)]
struct Figures {
    calls: usize,
    calls_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// The most that the guest had in any of the calls.
    memory_kib: usize,
}

impl Bench {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let bundle = self.call.load(app, ui).await?;
        let found = find(&bundle, &self.call.tool)?;
        let manager = app.pretended_manager().await?;
        let (mut took, mut memory_bytes) = (Vec::new(), 0);
        let mut once = async || -> Result<Duration, Failure> {
            let (transcript, arguments) = (Transcript::of_pretended_host(), self.call.arguments.clone());
            let begun = Instant::now();
            call(&bundle, found, arguments, &manager, &transcript).await?;
            let elapsed = begun.elapsed();
            memory_bytes = memory_bytes.max(transcript.memory_bytes());
            Ok(elapsed)
        };
        // The first call finds nothing in place yet.
        once().await?;
        let begun = Instant::now();
        while took.is_empty() || begun.elapsed() < self.time {
            took.push(once().await?);
        }
        let figures = Figures::of(took, memory_bytes);
        ui.result(&figures, || figures.text())?;
        Ok(ExitCode::Ok)
    }
}

impl Figures {
    fn of(mut took: Vec<Duration>, memory_bytes: usize) -> Self {
        took.sort_unstable();
        let all: Duration = took.iter().sum();
        let rank = |percent: usize| (took.len() * percent).div_ceil(100).saturating_sub(1);
        let ms = |percent| {
            let took = took.get(rank(percent)).copied().unwrap_or_default();
            rounded(took.as_secs_f64() * 1e3)
        };
        #[expect(clippy::cast_precision_loss, reason = "shown to three decimals")]
        let calls = took.len() as f64;
        Self {
            calls: took.len(),
            calls_per_second: rounded(calls / all.as_secs_f64().max(f64::MIN_POSITIVE)),
            p50_ms: ms(50),
            p99_ms: ms(99),
            memory_kib: memory_bytes >> 10,
        }
    }

    fn text(&self) -> String {
        format!(
            "{} calls, {:.0} a second\np50 {:.3} ms\np99 {:.3} ms\nmemory {} KiB\n",
            self.calls, self.calls_per_second, self.p50_ms, self.p99_ms, self.memory_kib
        )
    }
}

/// To three decimals: more digits would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_calls_take_at_most_p50_and_all_but_a_hundredth_p99() {
        let took: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let figures = Figures::of(took, 3 << 20);
        let expected = Figures {
            calls: 200,
            calls_per_second: 9.95,
            p50_ms: 100.0,
            p99_ms: 198.0,
            memory_kib: 3072,
        };
        assert_eq!(figures, expected);
        assert_eq!(
            figures.text(),
            "200 calls, 10 a second\np50 100.000 ms\np99 198.000 ms\nmemory 3072 KiB\n"
        );
        assert!((Figures::of(vec![Duration::from_millis(7)], 0).p99_ms - 7.0).abs() < 1e-9);
    }
}
