//! `plugin record`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Call, call, find, lines};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, FailureCode, printable};
use crate::plugins::case::Case;
use crate::plugins::transcript::Transcript;

/// Call a tool once on the real host and keep what happened as a test case for `plugin replay`
///
/// Passwords and connection URIs that the host has to do with are replaced by words throughout. Arguments and settings are
/// kept otherwise as they are: give none that hold other secrets. Instances that the call creates are dropped again.
#[derive(Debug, Args)]
pub(in crate::cli) struct Record {
    #[command(flatten)]
    call: Call,

    /// The file for the test case; one that is there is replaced
    #[arg(long, value_name = "CASE")]
    to: PathBuf,
}

impl Record {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let bundle = self.call.load(app, ui).await?;
        let tool = find(&bundle, &self.call.tool)?;
        let (manager, transcript) = (app.manager().await?, Transcript::of_real_host());
        let arguments = self.call.arguments.clone();
        let ended = call(&bundle, tool, arguments, manager, &transcript).await;
        // A failure that the tool itself returns makes a case like any other.
        let ((Some(outcome @ Ok(_)), Ok(_)) | (Some(outcome @ Err(_)), Err(_))) = (transcript.outcome(), &ended) else {
            // It did not return, or returned what the host could not pass on.
            return ended.map(|_| ExitCode::Internal);
        };
        let case = Case {
            tool: self.call.tool,
            arguments: cleaned(&transcript, &self.call.arguments),
            settings: cleaned(&transcript, &self.call.terms.settings),
            grants: self.call.terms.terms().grants,
            calls: transcript.calls(),
            outcome,
        };
        write(&self.to, &case)?;
        let path = self.to.display().to_string();
        let seen = json!({ "case": path, "calls": case.calls.len() });
        ui.result(&seen, || format!("{}\n{}\n", lines(&transcript), printable(&path)))?;
        ended.map(|_| ExitCode::Ok)
    }
}

fn cleaned(transcript: &Transcript, object: &Map<String, Value>) -> Map<String, Value> {
    match transcript.clean(&Value::Object(object.clone())) {
        Value::Object(cleaned) => cleaned,
        _ => Map::new(),
    }
}

fn write(path: &Path, case: &Case) -> Result<(), Failure> {
    fs::write(path, format!("{:#}\n", case.to_json())).map_err(|error| {
        let message = format!("{} can't be written: {error}", path.display());
        Failure::new(FailureCode::Failed, message, "Give another file with --to.")
    })
}
