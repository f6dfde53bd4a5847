//! `postgres list`.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::caller;
use super::exit::ExitCode;
use super::ui::Ui;
use super::view::{InstanceView, instance_table};
use crate::failure::Failure;
use crate::manager::InstanceManager;

/// List the instances, oldest first
///
/// Passwords are left out; `postgres get` shows them.
#[derive(Debug, Args)]
pub(super) struct List {}

#[derive(Serialize)]
struct Listed {
    count: usize,
    instances: Vec<InstanceView>,
}

impl List {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let instances = manager.list(&caller()).await.map_err(|error| Failure::from(&error))?;
        if instances.is_empty() {
            ui.note("there are no instances: `dev-postgres-mcp postgres create` makes one");
        }
        let listed = Listed {
            count: instances.len(),
            instances: instances.iter().map(InstanceView::from).collect(),
        };
        ui.result(&listed, || instance_table(&instances, SystemTime::now()))?;
        Ok(ExitCode::Ok)
    }
}
