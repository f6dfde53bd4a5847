//! `plugin replay`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{call, find, load, read};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, FailureCode, printable};
use crate::plugins::bundle::Terms;
use crate::plugins::case::Case;
use crate::plugins::transcript::Transcript;

/// Call a tool as it was called when a test case was recorded, and tell the first difference
///
/// The bundle gets the recorded answers from the host as long as it asks for the same, in the same order. It may log what
/// it likes. The exit code says whether it asked for and returned the same.
#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// The bundle: a component, or a core module with its world embedded
    file: PathBuf,

    /// The test case, as `plugin record` has written it
    case: PathBuf,
}

impl Replay {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let case = case(&self.case)?;
        let terms = Terms {
            grants: case.grants,
            ..Terms::default()
        };
        let bundle = load(app, ui, &self.file, case.settings, &terms).await?;
        let tool = find(&bundle, &case.tool)?;
        let calls = case.calls.len();
        let (manager, transcript) = (app.pretended_manager().await?, Transcript::replaying(case.calls));
        let ended = call(&bundle, tool, case.arguments, &manager, &transcript).await;
        let mut difference = transcript.difference(&case.outcome);
        // What the host makes of a result may differ, too: it may not fit its schema any more.
        if let (None, Ok(_), Err(failure)) = (&difference, &case.outcome, &ended) {
            difference = Some(failure.message.clone());
        }
        ui.result(
            &json!({ "calls": calls, "difference": difference }),
            || match &difference {
                Some(difference) => format!("{}\n", printable(difference)),
                None => format!("the same in all of {calls} calls of the host\n"),
            },
        )?;
        Ok(match difference {
            Some(_) => ExitCode::Unhealthy,
            None => ExitCode::Ok,
        })
    }
}

fn case(path: &Path) -> Result<Case, Failure> {
    let bytes = read(path)?;
    let text = str::from_utf8(&bytes).map_err(|error| error.to_string());
    text.and_then(Case::from_json).map_err(|reason| {
        let message = format!("{} is no test case: {reason}", path.display());
        Failure::new(
            FailureCode::InvalidArguments,
            message,
            "`dev-postgres-mcp plugin record` writes one.",
        )
    })
}
