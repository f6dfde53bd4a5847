//! `postgres stats`.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::{StatsView, stats_table};
use crate::failure::Failure;
use crate::manager::InstanceManager;

/// Show what instances take: CPU, memory, disk, connections
///
/// CPU is a part of what the instance may have, or cores where it has no limit, over a second or so; memory is without
/// what the kernel can have back at once; disk is what the instance has of its own, be it less than its databases. A
/// dash is what can't be told.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// The instance's id, or enough of its beginning; all instances without it
    id: Option<IdArg>,
}

#[derive(Serialize)]
struct Told {
    count: usize,
    instances: Vec<StatsView>,
}

impl Stats {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let id = match self.id {
            Some(id) => Some(id.resolve(manager).await?),
            None => None,
        };
        let stats = manager
            .stats(id, &manager.caller())
            .await
            .map_err(|error| Failure::from(&error))?;
        if stats.is_empty() {
            ui.note("there are no instances: `dev-postgres-mcp postgres create` makes one");
        }
        let now = SystemTime::now();
        let told = Told {
            count: stats.len(),
            instances: stats.iter().map(|stats| StatsView::new(stats, now)).collect(),
        };
        ui.result(&told, || stats_table(&stats, now))?;
        Ok(ExitCode::Ok)
    }
}
