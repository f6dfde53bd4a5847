//! `postgres warm`.

use clap::Args;
use serde::Serialize;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::failure::Failure;
use crate::manager::InstanceManager;

/// Prepare a version, so that its first instance is made as fast as any other
///
/// Pulls the image if it isn't there, and initialises once the data directory that instances start from. Changes nothing
/// where that has been done.
#[derive(Debug, Args)]
pub(super) struct Warm {
    /// PostgreSQL's version: 17, 16.4 [default: the setting instance.version]
    #[arg(long)]
    version: Option<String>,
}

#[derive(Serialize)]
struct Warmed {
    version: String,
    template: bool,
}

impl Warm {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let progress = ui.progress();
        let prepared = manager.prepare(self.version, &manager.caller(), &progress.sink()).await;
        drop(progress);
        let (image, has_template) = prepared.map_err(|error| Failure::from(&error))?;
        let warmed = Warmed {
            version: image.version().to_owned(),
            template: has_template,
        };
        ui.result(&warmed, || {
            let how = if has_template {
                "prepared"
            } else {
                "here, without a template: its instances are initialised one by one"
            };
            format!("PostgreSQL {} is {how}\n", warmed.version)
        })?;
        Ok(ExitCode::Ok)
    }
}
