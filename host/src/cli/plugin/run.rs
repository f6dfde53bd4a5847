//! `plugin run`.

use clap::Args;
use serde_json::{Value, json};

use super::{Call, call, find, lines};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::Failure;
use crate::plugins::transcript::{HostCall, Transcript};

/// Call a tool once on a host that only pretends, and show what the tool asks it for
///
/// Grants, limits and settings are those of the options, and real; the policy is the configuration's. Instances are in name
/// only: creates succeed at once, health checks find them well, and SQL fails, since nothing runs it; `plugin record` has
/// the tool called on real ones.
#[derive(Debug, Args)]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    call: Call,
}

impl Run {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let bundle = self.call.load(app, ui).await?;
        let tool = find(&bundle, &self.call.tool)?;
        let (manager, transcript) = (app.pretended_manager().await?, Transcript::of_pretended_host());
        let outcome = call(&bundle, tool, self.call.arguments, &manager, &transcript).await;
        let result = outcome.as_ref().ok();
        let seen = json!({
            "result": result,
            "calls": transcript.calls().iter().map(HostCall::to_json).collect::<Vec<Value>>(),
            "log": transcript.log(),
        });
        ui.result(&seen, || {
            let result = result.map(|result| format!("\n{:#}\n", Value::Object(result.clone())));
            lines(&transcript) + &result.unwrap_or_default()
        })?;
        outcome.map(|_| ExitCode::Ok)
    }
}
