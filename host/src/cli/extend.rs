//! `postgres extend`.

use clap::Args;

use super::create::ttl_seconds;
use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::InstanceView;
use crate::failure::Failure;
use crate::instance::Lifetime;
use crate::manager::InstanceManager;

/// Have an instance live for some time from now on
///
/// Whatever it would have lived for: one that goes with its MCP server outlives it then, and one that stays until it is
/// dropped gets an end.
#[derive(Debug, Args)]
pub(super) struct Extend {
    /// The instance's id, or enough of its beginning
    id: IdArg,

    /// How long: 90s, 2h, 3days [default: what the policy has, a week at most]
    #[arg(long, value_name = "TIME", value_parser = ttl_seconds)]
    ttl: Option<u64>,
}

impl Extend {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let id = self.id.resolve(manager).await?;
        let instance = manager
            .extend(id, self.ttl, &manager.caller())
            .await
            .map_err(|error| Failure::from(&error))?;
        ui.result(&InstanceView::from(&instance), || match instance.lifetime {
            Lifetime::Until(end) => format!("{id} lives until {}\n", humantime::format_rfc3339_seconds(end)),
            Lifetime::Session | Lifetime::Unlimited => format!("{id} has no end\n"),
        })?;
        Ok(ExitCode::Ok)
    }
}
