//! `plugin`: what plugin authors need, and what its commands share.

mod inspect;
mod list;
mod update;

use std::path::Path;

use clap::Subcommand;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::app::App;
use crate::failure::{Failure, FailureCode};
use crate::files;
use crate::plugins::FILE_BYTES_MAX;

#[derive(Debug, Subcommand)]
pub(super) enum PluginVerb {
    Inspect(inspect::Inspect),
    List(list::List),
    Update(update::Update),
}

impl PluginVerb {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        match self {
            Self::Inspect(inspect) => inspect.run(ui),
            Self::List(list) => list.run(app, ui).await,
            Self::Update(update) => update.run(app, ui).await,
        }
    }
}

/// The bytes of a plugin's file.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    files::read(file, FILE_BYTES_MAX as u64).map_err(|error| {
        let message = format!("{} can't be read: {error}", file.display());
        Failure::new(FailureCode::Failed, message, "Give the path of a plugin's file.")
    })
}
