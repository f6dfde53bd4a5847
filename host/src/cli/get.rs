//! `postgres get`.

use std::time::SystemTime;

use clap::Args;

use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::{InstanceView, connection_block};
use crate::failure::Failure;
use crate::manager::InstanceManager;

/// Show an instance and how to connect, password included
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The instance's id, or enough of its beginning
    id: IdArg,
}

impl Get {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let id = self.id.resolve(manager).await?;
        let connection = manager
            .get(id, &manager.caller())
            .await
            .map_err(|error| Failure::from(&error))?;
        ui.result(&InstanceView::from(&connection), || {
            connection_block(&connection, SystemTime::now())
        })?;
        Ok(ExitCode::Ok)
    }
}
