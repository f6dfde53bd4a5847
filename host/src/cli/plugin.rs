//! `plugin`: what plugin authors need, and what its commands share.

mod bench;
mod check;
mod inspect;
mod list;
mod new;
mod record;
mod replay;
mod run;
mod update;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::exit::ExitCode;
use super::ui::{ShownProgress, Ui};
use crate::app::App;
use crate::failure::{Failure, FailureCode, printable};
use crate::files;
use crate::instance::{InvalidValue, ProgressSink};
use crate::manager::InstanceManager;
use crate::plugins::budget::{Budget, LIMITS, Limit};
use crate::plugins::bundle::{Bundle, Terms};
use crate::plugins::grants::Grant;
use crate::plugins::tools::Tool;
use crate::plugins::transcript::Transcript;
use crate::plugins::{FILE_BYTES_MAX, Source};

#[derive(Debug, Subcommand)]
pub(super) enum PluginVerb {
    New(new::New),
    Check(check::Check),
    Inspect(inspect::Inspect),
    List(list::List),
    Update(update::Update),
    Run(run::Run),
    Bench(bench::Bench),
    Record(record::Record),
    Replay(replay::Replay),
}

impl PluginVerb {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        match self {
            Self::New(new) => new.run(ui),
            Self::Check(check) => check.run(app, ui).await,
            Self::Inspect(inspect) => inspect.run(app, ui).await,
            Self::List(list) => list.run(app, ui).await,
            Self::Update(update) => update.run(app, ui).await,
            Self::Run(run) => run.run(app, ui).await,
            Self::Bench(bench) => bench.run(app, ui).await,
            Self::Record(record) => record.run(app, ui).await,
            Self::Replay(replay) => replay.run(app, ui).await,
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

/// A plugin's file as the configuration would have it, and nothing of the configuration.
fn source(file: &Path, settings: Map<String, Value>) -> Result<Source, Failure> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source {
        name,
        from: file.display().to_string(),
        bytes: read(file)?.into(),
        sha256: None,
        settings,
    })
}

/// A JSON object on the command line.
fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("must be a JSON object, such as {}".into()),
        Err(error) => Err(format!("must be a JSON object: {error}")),
    }
}

/// A limit as `--limit` takes it: which of them, and how much.
#[derive(Debug, Clone)]
struct GivenLimit(Limit, Value);

fn limit(text: &str) -> Result<GivenLimit, String> {
    let known = || LIMITS.map(|limit| limit.key).join(", ");
    let (name, value) = text
        .split_once('=')
        .ok_or("must be a name and a value, such as memory_mib=128")?;
    let limit = LIMITS
        .into_iter()
        .find(|limit| limit.key == name)
        .ok_or_else(|| format!("there is no limit {name:?}; there are {}", known()))?;
    let value = value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
    limit
        .apply(&value, &mut Budget::BUNDLE.clone())
        .map_err(|InvalidValue(expected)| format!("{name} {expected}"))?;
    Ok(GivenLimit(limit, value))
}

/// On what terms a bundle is called, and none of the configuration's.
#[derive(Debug, Args)]
struct GivenTerms {
    /// What the bundle is granted, separated by commas: create, read, read-credentials, drop, health, log, clock, sql
    #[arg(long, value_delimiter = ',', value_name = "GRANTS")]
    grants: Vec<Grant>,

    /// The bundle's settings, a JSON object
    #[arg(long, default_value = "{}", value_parser = object, value_name = "JSON", hide_default_value = true)]
    settings: Map<String, Value>,

    /// What one call may use, by its name in `limits` of the configuration: `memory_mib=128`, `cpu=5s`; once for each
    #[arg(long = "limit", value_parser = limit, value_name = "NAME=VALUE")]
    limits: Vec<GivenLimit>,
}

impl GivenTerms {
    fn terms(&self) -> Terms {
        let mut budget = Budget::BUNDLE;
        for GivenLimit(limit, value) in &self.limits {
            // It was applied before, when it was read.
            let _ = limit.apply(value, &mut budget);
        }
        Terms {
            grants: self.grants.iter().copied().collect(),
            budget,
            ..Terms::default()
        }
    }
}

/// One tool of a bundle, and what it is called with.
#[derive(Debug, Args)]
struct Call {
    /// The bundle: a component, or a core module with its world embedded
    file: PathBuf,

    /// The tool, by the name that the bundle gives it
    tool: String,

    /// What the tool is called with, a JSON object [default: none]
    #[arg(default_value = "{}", value_parser = object, value_name = "JSON", hide_default_value = true)]
    arguments: Map<String, Value>,

    #[command(flatten)]
    terms: GivenTerms,
}

impl Call {
    async fn load(&self, app: &App, ui: &Ui) -> Result<Bundle, Failure> {
        load(app, ui, &self.file, self.terms.settings.clone(), &self.terms.terms()).await
    }
}

/// Says that a plugin is being loaded, which takes a while if there is an interpreter in it to be compiled.
fn loading(ui: &Ui, file: &Path) -> ShownProgress {
    let file = printable(&file.display().to_string());
    ui.waiting(format!("loading {file}; the first time, it is compiled"))
}

async fn load(app: &App, ui: &Ui, file: &Path, settings: Map<String, Value>, terms: &Terms) -> Result<Bundle, Failure> {
    let source = source(file, settings)?;
    let _shown = loading(ui, file);
    let loaded = Bundle::load(app.runtime().await?, &source, terms).await;
    loaded.map_err(|error| Failure {
        advice: "`dev-postgres-mcp plugin check` tells all that is wrong with it.".into(),
        ..Failure::from(&error)
    })
}

fn find<'a>(bundle: &'a Bundle, name: &str) -> Result<&'a Tool, Failure> {
    let tools = bundle.tools();
    tools.iter().find(|tool| tool.name() == name).ok_or_else(|| {
        let known: Vec<&str> = tools.iter().map(Tool::name).collect();
        let message = format!("{} has no tool {name:?}; it has {}", bundle.name(), known.join(", "));
        Failure::new(
            FailureCode::InvalidArguments,
            message,
            "Give the name of one of its tools.",
        )
    })
}

/// Calls a tool once, with what happens written down. Instances that it makes are dropped again.
async fn call(
    bundle: &Bundle,
    tool: &Tool,
    arguments: Map<String, Value>,
    manager: &InstanceManager,
    transcript: &Transcript,
) -> Result<Map<String, Value>, Failure> {
    let sink = ProgressSink::none();
    let outcome = bundle
        .call_noted(
            tool,
            arguments,
            manager,
            manager.caller(),
            sink,
            Some(transcript.clone()),
        )
        .await;
    outcome
        .map(|(result, _dropped)| result)
        .map_err(|error| Failure::from(&error))
}

/// What a guest asked the host for, a line for each call and one for its answer, and what it logged.
fn lines(transcript: &Transcript) -> String {
    let mut out = String::new();
    for call in transcript.calls() {
        let answer = match &call.answer {
            Ok(answer) => answer.to_string(),
            Err(failure) => format!("failed: {failure}"),
        };
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}\n    {}", printable(&call.to_string()), printable(&answer));
    }
    for line in transcript.log() {
        let _ = writeln!(out, "log {}", printable(&line));
    }
    out
}
