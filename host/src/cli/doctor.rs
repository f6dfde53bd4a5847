//! `doctor`.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use clap::Args;
use rand::Rng;
use serde::Serialize;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::app::App;
use crate::config::{self, Code, Config, ConfigError, Mode};
use crate::engine::{Diagnosis, Verdict};
use crate::failure::Failure;
use crate::plugins::PluginError;
use crate::plugins::toolbox::Entry;
use crate::ports::PortAllocator;

/// How many ports of the range are tried: enough to tell a crowded range from a free one, in a few milliseconds.
const PORTS_TRIED_MAX: usize = 100;
/// As the local engine has it, too.
const STATE_DIRECTORY: &str = "state directory";

/// Check what this program needs, and say what to do about what is missing
///
/// The exit code is 0 if everything works, warnings included.
#[derive(Debug, Args)]
pub(super) struct Doctor {}

#[derive(Serialize)]
struct Examination<'a> {
    well: bool,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    subject: &'a str,
    verdict: &'static str,
    detail: &'a str,
    advice: &'a str,
}

impl<'a> From<&'a Diagnosis> for Check<'a> {
    fn from(
        Diagnosis {
            subject,
            verdict,
            detail,
            advice,
        }: &'a Diagnosis,
    ) -> Self {
        let verdict = match verdict {
            Verdict::Good => "good",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        Self {
            subject,
            verdict,
            detail,
            advice,
        }
    }
}

impl Doctor {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let config = app.config();
        let mut diagnoses = vec![configuration(config), policy(app).await];
        diagnoses.extend(bundles(app).await);
        diagnoses.push(ports(config, &mut rand::rng()));
        // The engine itself, not through the manager: a broken policy is no reason to say nothing of Docker.
        diagnoses.extend(app.engine().diagnose(&config.instance.defaults.image).await);
        // Where the local engine is needed, it has said so itself.
        if diagnoses.iter().all(|diagnosis| diagnosis.subject != STATE_DIRECTORY) {
            diagnoses.push(state_directory(app).await);
        }
        report(&diagnoses, ui)
    }

    /// Where the configuration is wrong there is nothing else to look at: it says where Docker is.
    pub(super) fn run_without_config(ConfigError(problems): &ConfigError, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let diagnosis = |problem: &crate::config::Problem| Diagnosis {
            subject: "configuration",
            verdict: Verdict::Bad,
            detail: problem.to_string(),
            advice: "`dev-postgres-mcp config default` prints every setting with its meaning.".into(),
        };
        report(&problems.iter().map(diagnosis).collect::<Vec<_>>(), ui)
    }
}

fn configuration(config: &Config) -> Diagnosis {
    let detail = match &config.file {
        Some(path) => path.display().to_string(),
        None => "no file; built-in defaults, the environment and options hold".to_owned(),
    };
    Diagnosis {
        subject: "configuration",
        verdict: Verdict::Good,
        detail,
        advice: String::new(),
    }
}

async fn policy(app: &App) -> Diagnosis {
    let subject = "policy";
    match app.manager().await {
        Ok(_) => {
            let config::Policy {
                name, component, mode, ..
            } = &app.config().policy;
            let whose = match &app.config().team {
                Some(_) => format!("{name}, {}", component.code),
                None => component.code.to_string(),
            };
            match mode {
                Mode::Enforce => Diagnosis {
                    subject,
                    verdict: Verdict::Good,
                    detail: whose,
                    advice: String::new(),
                },
                Mode::Monitor => Diagnosis {
                    subject,
                    verdict: Verdict::Warning,
                    detail: format!("{whose}: nothing is denied, it only monitors"),
                    advice: format!("Set {name}.mode to enforce once the log has nothing that surprises."),
                },
            }
        }
        Err(failure) => bad(subject, failure),
    }
}

/// What is served, and then each bundle that isn't as it is in its place.
async fn bundles(app: &App) -> Vec<Diagnosis> {
    let subject = "tool bundles";
    let toolbox = match app.bundles().await {
        Ok(bundles) => bundles.toolbox(),
        Err(failure) => return vec![bad(subject, failure)],
    };
    let served = |entry: &Entry| {
        let tools = entry.bundle.as_ref()?.tools().len();
        Some(format!("{} with {tools} tools, {}", entry.name, entry.place))
    };
    let served: Vec<String> = toolbox.entries().iter().filter_map(served).collect();
    let mut diagnoses = vec![Diagnosis {
        subject,
        verdict: Verdict::Good,
        detail: served.join("; "),
        advice: String::new(),
    }];
    let config = app.config();
    let warning = |detail: String, advice: &str| Diagnosis {
        subject,
        verdict: Verdict::Warning,
        detail,
        advice: advice.into(),
    };
    if let Some(dir) = config.plugins.dir.as_ref().filter(|dir| !dir.is_dir()) {
        let detail = format!("there is no folder {}", dir.display());
        diagnoses.push(warning(detail, "Make it, or correct plugins.dir."));
    }
    let without_file = config.bundles.iter().filter(|bundle| {
        let name = bundle.name.as_str();
        bundle.component.code == Code::Folder && !toolbox.entries().iter().any(|entry| entry.name == name)
    });
    diagnoses.extend(without_file.map(|bundle| {
        let detail = format!("there is no {}.wasm in plugins.dir", bundle.name);
        warning(
            detail,
            "Put it there, or give the entry in the configuration a `component`.",
        )
    }));
    diagnoses.extend(toolbox.entries().iter().filter_map(|entry| {
        let problem = entry.problem.as_deref()?;
        Some(Diagnosis {
            subject,
            verdict: Verdict::Bad,
            detail: problem.to_string(),
            advice: match problem {
                PluginError::Withheld(failure) => failure.advice.clone(),
                _ => format!("Replace {}; the other bundles are served without it.", entry.place),
            },
        })
    }));
    diagnoses
}

/// Whether anybody would notice that an MCP server was killed.
async fn state_directory(app: &App) -> Diagnosis {
    let owners = app.owners().clone();
    let me = tokio::task::spawn_blocking(move || owners.me()).await;
    match me.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(_) => Diagnosis {
            subject: STATE_DIRECTORY,
            verdict: Verdict::Good,
            detail: match &app.config().local.state_dir {
                Some(path) => path.display().to_string(),
                None => String::new(),
            },
            advice: String::new(),
        },
        Err(error) => Diagnosis {
            subject: STATE_DIRECTORY,
            verdict: Verdict::Warning,
            detail: format!("{error}: if an MCP server is killed, nobody notices and its instances stay"),
            advice: "Name another folder in the setting local.state_dir.".into(),
        },
    }
}

fn bad(subject: &'static str, failure: Failure) -> Diagnosis {
    Diagnosis {
        subject,
        verdict: Verdict::Bad,
        detail: failure.message,
        advice: failure.advice,
    }
}

/// Tries some ports at random on this machine's loopback address, where a Docker of this machine publishes; what a
/// Docker elsewhere has free can't be seen from here.
fn ports(config: &Config, rng: &mut impl Rng) -> Diagnosis {
    let (subject, range) = ("ports", config.instance.ports);
    let mut candidates = PortAllocator::new(range).candidates(rng);
    let leases = std::iter::from_fn(|| candidates.next_lease().ok());
    let free: Vec<bool> = leases
        .take(PORTS_TRIED_MAX)
        .map(|lease| TcpListener::bind((Ipv4Addr::LOCALHOST, lease.port().get())).is_ok())
        .collect();
    let (tried, free) = (free.len(), free.iter().filter(|&&free| free).count());
    let verdict = if free > 0 { Verdict::Good } else { Verdict::Warning };
    let advice = match verdict {
        Verdict::Good => String::new(),
        _ => "Drop instances, or give another range in the setting instance.ports.".to_owned(),
    };
    Diagnosis {
        subject,
        verdict,
        detail: format!("{range}: {free} of {tried} tried are free on this machine"),
        advice,
    }
}

fn report(diagnoses: &[Diagnosis], ui: &mut Ui) -> Result<ExitCode, Failure> {
    let well = diagnoses.iter().all(|diagnosis| diagnosis.verdict != Verdict::Bad);
    let unicode = ui.terminal.stdout && ui.terminal.unicode;
    ui.result(
        &Examination {
            well,
            checks: diagnoses.iter().map(Check::from).collect(),
        },
        || text(diagnoses, unicode),
    )?;
    Ok(if well { ExitCode::Ok } else { ExitCode::Unhealthy })
}

fn text(diagnoses: &[Diagnosis], unicode: bool) -> String {
    let width = diagnoses
        .iter()
        .map(|diagnosis| diagnosis.subject.len())
        .max()
        .unwrap_or_default();
    let mut out = String::new();
    for Diagnosis {
        subject,
        verdict,
        detail,
        advice,
    } in diagnoses
    {
        let symbol = match (verdict, unicode) {
            (Verdict::Good, true) => "✓",
            (Verdict::Warning, true) => "!",
            (Verdict::Bad, true) => "✗",
            (Verdict::Good, false) => "ok  ",
            (Verdict::Warning, false) => "warn",
            (Verdict::Bad, false) => "BAD ",
        };
        // Writing to a String can't fail.
        let _ = writeln!(out, "{symbol} {subject:width$}  {detail}");
        if !advice.is_empty() {
            let indent = symbol.chars().count() + 1 + width + 2;
            let _ = writeln!(out, "{:indent$}{advice}", "");
        }
    }
    out
}
