//! `plugin`: what plugin authors need, and what its commands share.

mod inspect;
mod list;

use std::path::Path;

use clap::Subcommand;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::app::{self, App};
use crate::failure::{Failure, FailureCode};

#[derive(Debug, Subcommand)]
pub(super) enum PluginVerb {
    Inspect(inspect::Inspect),
    List(list::List),
}

impl PluginVerb {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        match self {
            Self::Inspect(inspect) => inspect.run(ui),
            Self::List(list) => list.run(app, ui).await,
        }
    }
}

/// The bytes of a plugin's file.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    app::read(file).map_err(|error| {
        let message = format!("{} can't be read: {error}", file.display());
        Failure::new(FailureCode::Failed, message, "Give the path of a plugin's file.")
    })
}
