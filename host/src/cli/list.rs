//! `postgres list`.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::exit::ExitCode;
use super::ui::Ui;
use super::view::{InstanceView, instance_table};
use crate::failure::Failure;
use crate::instance::Instance;
use crate::manager::{InstanceManager, Left};

/// List the instances, oldest first
///
/// Passwords are left out; `postgres get` shows them. LEFT is how long an instance stays if nobody drops it: a time; session,
/// for as long as the MCP server that made it runs; orphan, if that has ended without dropping it, which the next command or
/// server does; or - for ever.
#[derive(Debug, Args)]
pub(super) struct List {}

#[derive(Serialize)]
struct Listed {
    count: usize,
    instances: Vec<InstanceView>,
}

impl List {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let caller = manager.caller();
        let (listed, overlooked) = tokio::join!(manager.list(&caller), manager.overlooked());
        let listed = listed.map_err(|error| Failure::from(&error))?;
        if let Some(overlooked) = overlooked {
            ui.note(&format!(
                "warning: if there are instances in Docker, they are not listed: {overlooked}"
            ));
        }
        let left = manager.sweeper().left(&listed).await;
        let instances: Vec<(Instance, Left)> = listed.into_iter().zip(left).collect();
        if instances.is_empty() {
            ui.note("there are no instances: `dev-postgres-mcp postgres create` makes one");
        }
        let now = SystemTime::now();
        let listed = Listed {
            count: instances.len(),
            instances: instances
                .iter()
                .map(|(instance, left)| InstanceView::listed(instance, *left, now))
                .collect(),
        };
        ui.result(&listed, || instance_table(&instances, now))?;
        Ok(ExitCode::Ok)
    }
}
