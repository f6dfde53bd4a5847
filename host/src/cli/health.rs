//! `postgres health`.

use clap::Args;

use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::HealthView;
use crate::failure::Failure;
use crate::instance::Health as State;
use crate::manager::InstanceManager;

/// Run a query on an instance and say how it went
///
/// The exit code is 0 only if the query was answered.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// The instance's id, or enough of its beginning
    id: IdArg,
}

impl Health {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let id = self.id.resolve(manager).await?;
        let report = manager
            .health(id, &manager.caller())
            .await
            .map_err(|error| Failure::from(&error))?;
        ui.result(&HealthView::from(&report), || {
            let latency = report
                .latency
                .map(|latency| format!(" after {:.1} ms", latency.as_secs_f64() * 1e3));
            let (health, latency) = (report.health.as_str(), latency.unwrap_or_default());
            format!("{} is {health}{latency}: {}\n", report.id, report.message)
        })?;
        Ok(match report.health {
            State::Healthy => ExitCode::Ok,
            State::Starting | State::Unhealthy | State::Stopped => ExitCode::Unhealthy,
        })
    }
}
