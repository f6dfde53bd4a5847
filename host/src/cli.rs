//! The command line: what it takes, and the life of a command from its configuration to its exit code.

mod completions;
mod config;
mod create;
mod doctor;
mod drop;
mod exit;
mod extend;
mod get;
mod health;
mod id;
mod list;
mod logging;
mod plugin;
mod prune;
mod serve;
mod setting_flags;
mod signals;
mod stats;
mod ui;
mod version;
mod view;
mod warm;

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

/// How long the end of the process waits for what was begun to be undone.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a command that needs no engine looks for what is over.
const TIDY_PATIENCE: Duration = Duration::from_secs(2);

/// Throwaway PostgreSQL instances for coding agents (MCP) and people
///
/// Each instance is a Docker container of its own or, where there is no Docker, a server of its own on this machine. An
/// agent gets one through the MCP server, `dev-postgres-mcp mcp serve`; a person with `dev-postgres-mcp postgres create`.
/// Both see the same instances.
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
        "Settings come from, the later over the earlier: built-in defaults, the configuration file, the environment, \
         the options above. `dev-postgres-mcp config show` prints each value with where it came from.\n\n{}",
        ExitCode::reference()
    )
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve coding agents
    #[command(subcommand)]
    Mcp(McpVerb),
    /// Create, list, show, drop and check PostgreSQL instances, and look after what they start from
    #[command(subcommand)]
    Postgres(PostgresVerb),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Write, check and try plugins, see which ones are loaded, and update those that come from registries
    #[command(subcommand)]
    Plugin(plugin::PluginVerb),
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
    Extend(extend::Extend),
    Drop(drop::Drop),
    Health(health::Health),
    Stats(stats::Stats),
    Warm(warm::Warm),
    Prune(prune::Prune),
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
        Verb::Version(_) => finish(version::Version::run(ui), ui),
        Verb::Completions(completions) => finish(completions.run(Cli::command(), ui), ui),
        Verb::Config(ConfigVerb::Default(_)) => finish(config::Default::run(ui), ui),
        Verb::Config(ConfigVerb::Show(_)) => finish(config::Show::run(&load()?, ui), ui),
        Verb::Doctor(doctor) => match load() {
            Ok(config) => {
                with_app(config, environment, Level::WARN, ui, async |app, ui| {
                    app.tidy_within(TIDY_PATIENCE);
                    doctor.run(app, ui).await
                })
                .await
            }
            Err(error) => finish(doctor::Doctor::run_without_config(&error, ui), ui),
        },
        Verb::Mcp(McpVerb::Serve(serve)) => {
            with_app(load()?, environment, Level::INFO, ui, async |app, _| {
                Box::pin(serve.run(app)).await
            })
            .await
        }
        Verb::Plugin(verb) => {
            with_app(load()?, environment, Level::WARN, ui, async |app, ui| {
                app.tidy_within(TIDY_PATIENCE);
                verb.run(app, ui).await
            })
            .await
        }
        Verb::Postgres(verb) => {
            with_app(load()?, environment, Level::WARN, ui, async |app, ui| {
                verb.run(app, ui).await
            })
            .await
        }
    })
}

/// Runs a command to its end or to a signal. A signal drops it where it is, which has it undone in the background.
async fn with_app(
    config: Config,
    environment: &Environment,
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
    let app = App::new(config, environment);
    let code = tokio::select! {
        // Boxed: the future of a whole command is large.
        outcome = Box::pin(command(&app, ui)) => finish(outcome, ui),
        code = signals.next() => code,
    };
    // A second signal doesn't wait.
    let undone = tokio::select! {
        done = app.shutdown(SHUTDOWN_DEADLINE) => done,
        _ = signals.next() => false,
    };
    if !undone {
        tracing::error!("not everything that was begun is undone: see `dev-postgres-mcp postgres list`");
    }
    code
}

fn finish(outcome: Result<ExitCode, Failure>, ui: &mut Ui) -> ExitCode {
    outcome.unwrap_or_else(|failure| ui.error(&failure))
}

impl PostgresVerb {
    async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        // A prune says itself what it removes, or would.
        if !matches!(self, Self::Prune(_)) {
            app.tidy();
        }
        let manager = app.manager().await?;
        match self {
            Self::Create(create) => create.run(manager, ui).await,
            Self::List(list) => list.run(manager, ui).await,
            Self::Get(get) => get.run(manager, ui).await,
            Self::Extend(extend) => extend.run(manager, ui).await,
            Self::Drop(drop) => drop.run(manager, ui).await,
            Self::Health(health) => health.run(manager, ui).await,
            Self::Stats(stats) => stats.run(manager, ui).await,
            Self::Warm(warm) => warm.run(manager, ui).await,
            Self::Prune(prune) => prune.run(manager, ui).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::Command;

    use super::ui::{Terminal, fake};
    use super::*;
    use crate::config::KEYS;

    struct Told {
        code: ExitCode,
        stdout: String,
        stderr: String,
    }

    /// Runs a command that needs no engine, as `main` does.
    async fn told(arguments: &[&str], variables: &[(&str, &str)]) -> Told {
        let cli = Cli::try_parse_from([&["dev-postgres-mcp"], arguments].concat()).expect("a command line");
        let (mut ui, stdout, stderr) = fake::ui(cli.output, Terminal::default(), "");
        let environment = variables.iter().copied().collect();
        let code = run(cli, &environment, &mut ui)
            .await
            .unwrap_or_else(|problems| ui.error(&problems));
        Told {
            code,
            stdout: stdout.text(),
            stderr: stderr.text(),
        }
    }

    fn add_help(command: &mut Command, out: &mut String) {
        let help = command.render_long_help();
        let _ = writeln!(
            out,
            "## {}\n\n{help}",
            command.get_bin_name().unwrap_or("dev-postgres-mcp")
        );
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            // They are the same everywhere: once is enough to read.
            for repeated in KEYS
                .iter()
                .map(|key| key.flag.as_str())
                .chain(["output", "config", "help"])
            {
                *verb =
                    std::mem::take(verb).mut_args(|arg| if arg.get_id() == repeated { arg.hide(true) } else { arg });
            }
            add_help(verb, out);
        }
    }

    #[test]
    fn the_command_line_is_as_it_is_documented() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut reference = String::new();
        add_help(&mut command, &mut reference);
        insta::assert_snapshot!(reference);
    }

    #[test]
    fn a_command_line_that_makes_no_sense_is_told_what_would() {
        let mut told = String::new();
        for arguments in [
            &["postgres", "lst"][..],
            &["postgres", "get"],
            &["postgres", "get", "my-database"],
            &["postgres", "drop"],
            &["postgres", "drop", "--all", "2f1c"],
            &["postgres", "create", "--pasword-stdin"],
            &["postgres", "create", "--password", "s3cret"],
            &["postgres", "list", "--docker-hots", "x"],
            &["postgres", "list", "--output", "yaml"],
            &["plugin", "new", "My_Plugin", "--world", "policy"],
            &["plugin", "new", "mine"],
            &["plugin", "new", "mine", "--world", "bundle"],
            &["plugin", "run", "x.wasm"],
            &["plugin", "run", "x.wasm", "tool", "[]"],
            &["plugin", "run", "x.wasm", "tool", "--grants", "all"],
            &["plugin", "run", "x.wasm", "tool", "--limit", "memory=1"],
            &["plugin", "run", "x.wasm", "tool", "--limit", "memory_mib=0"],
            &["plugin", "record", "x.wasm", "tool"],
            &["completions", "cmd"],
        ] {
            let error = Cli::try_parse_from([&["dev-postgres-mcp"], arguments].concat()).expect_err("makes no sense");
            assert_eq!(error.exit_code(), i32::from(ExitCode::Usage as u8));
            let _ = writeln!(told, "$ dev-postgres-mcp {}\n{error}", arguments.join(" "));
        }
        insta::assert_snapshot!(told);
    }

    #[tokio::test]
    async fn a_configuration_with_one_problem_is_told_in_one_line() {
        let told = told(&["config", "show", "--instance-cpus", "many"], &[]).await;
        assert_eq!(told.code, ExitCode::Configuration);
        assert_eq!(told.stdout, "");
        insta::assert_snapshot!(told.stderr, @r#"
        error: --instance-cpus: instance.cpus must be a number, not "many"
        hint: `dev-postgres-mcp config default` prints every setting with its meaning.
        "#);
    }

    #[tokio::test]
    async fn a_configuration_with_more_problems_is_told_in_a_list() {
        let variables = [
            ("DEV_POSTGRES_MCP_LOG_LEVL", "info"),
            ("DEV_POSTGRES_MCP_LOG_FORMAT", "xml"),
        ];
        let told = told(&["postgres", "list"], &variables).await;
        assert_eq!(told.code, ExitCode::Configuration);
        insta::assert_snapshot!(told.stderr, @r#"
        error: the configuration has 2 problems
          DEV_POSTGRES_MCP_LOG_FORMAT: log.format must be text or json, not "xml"
          DEV_POSTGRES_MCP_LOG_LEVL: there is no such setting; did you mean DEV_POSTGRES_MCP_LOG_LEVEL?
        hint: `dev-postgres-mcp config default` prints every setting with its meaning.
        "#);
    }

    #[tokio::test]
    async fn programs_are_told_of_a_wrong_configuration_in_json() {
        let told = told(&["-o", "json", "config", "show", "--instance-cpus", "many"], &[]).await;
        insta::assert_snapshot!(told.stderr, @r#"{"error":{"code":"configuration","message":"--instance-cpus: instance.cpus must be a number, not \"many\"","advice":"`dev-postgres-mcp config default` prints every setting with its meaning.","fields":[{"field":"instance.cpus","message":"--instance-cpus: instance.cpus must be a number, not \"many\""}]}}"#);
    }

    #[tokio::test]
    async fn doctor_has_a_word_on_a_wrong_configuration() {
        let told = told(&["doctor", "--instance-cpus", "many"], &[]).await;
        assert_eq!(told.code, ExitCode::Unhealthy);
        insta::assert_snapshot!(told.stdout, @r#"
        BAD  configuration  --instance-cpus: instance.cpus must be a number, not "many"
                            `dev-postgres-mcp config default` prints every setting with its meaning.
        "#);
    }

    #[tokio::test]
    async fn the_configuration_is_shown_with_where_it_comes_from() {
        let arguments = ["config", "show", "--docker-host", "tcp://build-box:2376"];
        let variables = [("DEV_POSTGRES_MCP_POLICY_SETTINGS", r#"{"max": 3, "token": "s3cret"}"#)];
        let table = told(&arguments, &variables).await;
        assert_eq!(table.code, ExitCode::Ok);
        insta::assert_snapshot!(table.stdout);
        let json = told(&[&arguments[..], &["-o", "json"]].concat(), &variables).await;
        insta::assert_snapshot!(json.stdout);
    }

    #[tokio::test]
    async fn what_needs_no_configuration_answers_even_where_it_is_wrong() {
        let wrong = [("DEV_POSTGRES_MCP_LOG_LEVEL", "loud")];
        for arguments in [
            &["version"][..],
            &["completions", "bash"],
            &["completions", "powershell"],
            &["config", "default"],
        ] {
            let told = told(arguments, &wrong).await;
            assert_eq!(told.code, ExitCode::Ok, "{arguments:?}");
            assert!(
                !told.stdout.is_empty() && told.stderr.is_empty(),
                "{arguments:?}: {}",
                told.stderr
            );
        }
    }
}
