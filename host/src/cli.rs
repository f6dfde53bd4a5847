//! The command line: what it takes, and the life of a command from its configuration to its exit code.

mod completions;
mod config;
mod create;
mod doctor;
mod drop;
mod exit;
mod get;
mod health;
mod id;
mod list;
mod logging;
mod serve;
mod setting_flags;
mod signals;
mod ui;
mod version;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::Level;

pub use self::exit::ExitCode;
use self::setting_flags::SettingFlags;
use self::signals::Signals;
use self::ui::{Format, Ui};
use crate::app::App;
use crate::config::{CONFIG_VARIABLE, Config, ConfigError, Flags};
use crate::environment::Environment;
use crate::failure::{Failure, FailureCode};
use crate::instance::Caller;

/// How long the end of the process waits for what was begun to be undone.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Throwaway PostgreSQL servers for coding agents (MCP) and people
///
/// Each server is a Docker container of its own that listens on this machine only. An agent gets one through the MCP
/// server, `dev-postgres-mcp mcp serve`; a person with `dev-postgres-mcp postgres create`. Both see the same servers.
#[derive(Debug, Parser)]
#[command(name = "dev-postgres-mcp", version, max_term_width = 100, after_long_help = after_help())]
#[command(arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    /// How results and errors are written: tables for people, JSON for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    output: Format,

    #[arg(long, global = true, value_name = "FILE", help = config_help(), help_heading = "Global options")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: SettingFlags,

    #[command(subcommand)]
    verb: Verb,
}

fn config_help() -> String {
    format!("The configuration file [env: {CONFIG_VARIABLE}]")
}

fn after_help() -> String {
    format!(
        "Settings come from, the later over the earlier: built-in defaults, the configuration file, the environment,\n\
         the options above. `dev-postgres-mcp config show` prints each value with where it came from.\n\n{}",
        ExitCode::reference()
    )
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The MCP server
    #[command(subcommand)]
    Mcp(McpVerb),
    /// Create, list, show, drop and check PostgreSQL servers
    #[command(subcommand)]
    Postgres(PostgresVerb),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    Doctor(doctor::Doctor),
    Version(version::Version),
    Completions(completions::Completions),
}

#[derive(Debug, Subcommand)]
enum McpVerb {
    Serve(serve::Serve),
}

#[derive(Debug, Subcommand)]
enum PostgresVerb {
    Create(create::Create),
    List(list::List),
    Get(get::Get),
    Drop(drop::Drop),
    Health(health::Health),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    Show(config::Show),
    Default(config::Default),
}

/// What the command line takes, for the README.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The whole process: reads its arguments and environment, runs the command, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    let mut ui = Ui::of_process(cli.output, &environment);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(
                FailureCode::Failed,
                format!("the process can't start its threads: {error}"),
                "",
            );
            return ui.error(&failure);
        }
    };
    let code = runtime
        .block_on(run(cli, &environment, &mut ui))
        .unwrap_or_else(|problems| ui.error(&problems));
    // Not dropped: that would wait for a thread that reads standard input, until somebody presses Enter.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli, environment: &Environment, ui: &mut Ui) -> Result<ExitCode, ConfigError> {
    let flags = Flags {
        file: cli.config,
        settings: cli.settings.0,
    };
    let load = || Config::load(&flags, environment);
    // Only what needs the configuration reads it: the others answer even where it is wrong.
    Ok(match cli.verb {
        Verb::Version(version) => finish(version.run(ui), ui),
        Verb::Completions(completions) => finish(completions.run(Cli::command(), ui), ui),
        Verb::Config(ConfigVerb::Default(default)) => finish(default.run(ui), ui),
        Verb::Config(ConfigVerb::Show(show)) => finish(show.run(&load()?, ui), ui),
        Verb::Doctor(doctor) => match load() {
            Ok(config) => with_app(config, Level::WARN, ui, async |app, ui| doctor.run(app, ui).await).await,
            Err(error) => finish(doctor.run_without_config(&error, ui), ui),
        },
        Verb::Mcp(McpVerb::Serve(serve)) => {
            with_app(load()?, Level::INFO, ui, async |app, _| serve.run(app).await).await
        }
        Verb::Postgres(verb) => with_app(load()?, Level::WARN, ui, async |app, ui| verb.run(app, ui).await).await,
    })
}

/// Runs a command to its end or to a signal. A signal drops it where it is, which has it undone in the background.
async fn with_app(
    config: Config,
    default_level: Level,
    ui: &mut Ui,
    command: impl AsyncFnOnce(&App, &mut Ui) -> Result<ExitCode, Failure>,
) -> ExitCode {
    logging::start(config.log, default_level);
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            let message = format!("the process can't listen for signals: {error}");
            return ui.error(&Failure::new(FailureCode::Failed, message, ""));
        }
    };
    let app = App::new(config);
    let code = tokio::select! {
        outcome = command(&app, ui) => finish(outcome, ui),
        code = signals.next() => code,
    };
    // A second signal doesn't wait.
    let undone = tokio::select! {
        done = app.shutdown(SHUTDOWN_DEADLINE) => done,
        _ = signals.next() => false,
    };
    if !undone {
        ui.note("not everything that was begun is undone: see `dev-postgres-mcp postgres list`");
    }
    code
}

fn finish(outcome: Result<ExitCode, Failure>, ui: &mut Ui) -> ExitCode {
    outcome.unwrap_or_else(|failure| ui.error(&failure))
}

impl PostgresVerb {
    async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let manager = app.manager().await?;
        match self {
            Self::Create(create) => create.run(manager, ui).await,
            Self::List(list) => list.run(manager, ui).await,
            Self::Get(get) => get.run(manager, ui).await,
            Self::Drop(drop) => drop.run(manager, ui).await,
            Self::Health(health) => health.run(manager, ui).await,
        }
    }
}

/// Who asks, as the policy is told.
fn caller() -> Caller {
    Caller {
        client: "cli".to_owned(),
    }
}
