//! `postgres drop`.

use std::time::SystemTime;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::caller;
use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::instance_table;
use crate::failure::{Failure, FailureCode};
use crate::instance::{Instance, InstanceId};
use crate::manager::InstanceManager;

/// How many instances are dropped at the same time: enough to hide the waiting, few enough not to swamp Docker.
const CONCURRENT_DROPS: usize = 8;

/// Drop PostgreSQL servers with their data
///
/// Asks before it does so where somebody is there to answer, on a terminal. One that can't be dropped doesn't keep the
/// others from it; the exit code is then that of the first that failed.
#[derive(Debug, Args)]
pub(super) struct Drop {
    /// The servers' ids, or enough of their beginnings
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<IdArg>,

    /// Drop every server that there is
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Outcome {
    id: String,
    dropped: bool,
}

impl Drop {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let instances = manager.list(&caller()).await.map_err(|error| Failure::from(&error))?;
        let targets: Vec<(String, Result<InstanceId, Failure>)> = if self.all {
            instances
                .iter()
                .map(|instance| (instance.id.to_string(), Ok(instance.id)))
                .collect()
        } else {
            self.ids
                .iter()
                .map(|arg| (arg.to_string(), arg.find(&instances)))
                .collect()
        };
        if targets.is_empty() {
            ui.note("there is nothing to drop");
        }
        if !self.yes && ui.terminal.stdin && ui.terminal.stderr {
            confirm(&instances, &targets, ui).await?;
        }
        let outcomes: Vec<(String, Result<(), Failure>)> = stream::iter(targets)
            .map(async |(name, target)| match target {
                Ok(id) => {
                    let removed = manager.remove(id, &caller()).await;
                    (id.to_string(), removed.map_err(|error| Failure::from(&error)))
                }
                Err(failure) => (name, Err(failure)),
            })
            .buffered(CONCURRENT_DROPS)
            .collect()
            .await;
        let mut code = ExitCode::Ok;
        for failure in outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
            let failed = ui.error(failure);
            if code == ExitCode::Ok {
                code = failed;
            }
        }
        let results: Vec<Outcome> = outcomes
            .into_iter()
            .map(|(id, outcome)| Outcome {
                id,
                dropped: outcome.is_ok(),
            })
            .collect();
        ui.result(&results, || {
            results
                .iter()
                .filter(|result| result.dropped)
                .map(|result| format!("dropped {}\n", result.id))
                .collect()
        })?;
        Ok(code)
    }
}

async fn confirm(
    instances: &[Instance],
    targets: &[(String, Result<InstanceId, Failure>)],
    ui: &mut Ui,
) -> Result<(), Failure> {
    let is_meant = |id| targets.iter().any(|(_, target)| target.as_ref() == Ok(&id));
    let doomed: Vec<Instance> = instances
        .iter()
        .filter(|instance| is_meant(instance.id))
        .cloned()
        .collect();
    if doomed.is_empty() {
        return Ok(());
    }
    let question = format!(
        "{}Drop {} with all data?",
        instance_table(&doomed, SystemTime::now()),
        count(doomed.len())
    );
    if ui.confirm(&question).await {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Failed,
        "nothing was dropped: it was not confirmed",
        "`--yes` doesn't ask.",
    ))
}

fn count(instances: usize) -> String {
    match instances {
        1 => "this instance".to_owned(),
        several => format!("these {several} instances"),
    }
}
