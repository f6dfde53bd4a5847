//! `postgres drop`.

use std::collections::HashSet;
use std::time::SystemTime;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::exit::ExitCode;
use super::id::IdArg;
use super::ui::Ui;
use super::view::instance_table;
use crate::failure::{Failure, FailureCode};
use crate::instance::{Instance, InstanceId};
use crate::manager::{InstanceManager, Left};

/// How many instances are dropped at the same time: enough to hide the waiting, few enough not to swamp Docker.
const CONCURRENT_DROPS: usize = 8;

/// Drop instances with their data
///
/// Asks first where it runs on a terminal. An instance that can't be dropped doesn't keep the others from it: the exit
/// code is then that of the first that failed.
#[derive(Debug, Args)]
pub(super) struct Drop {
    /// The instances' ids, or enough of their beginnings
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<IdArg>,

    /// Drop every instance that `postgres list` shows
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Outcome {
    id: String,
    dropped: bool,
}

impl Drop {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let instances = manager
            .list(&manager.caller())
            .await
            .map_err(|error| Failure::from(&error))?;
        let targets: Vec<(String, Result<InstanceId, Failure>)> = if self.all {
            instances
                .iter()
                .map(|instance| (instance.id.to_string(), Ok(instance.id)))
                .collect()
        } else {
            let mut seen = HashSet::new();
            self.ids
                .iter()
                .map(|arg| (arg.to_string(), arg.find(&instances)))
                // Two beginnings of one id are one instance.
                .filter(|(_, target)| target.as_ref().map_or(true, |id| seen.insert(*id)))
                .collect()
        };
        if targets.is_empty() {
            ui.note("there is nothing to drop");
        }
        if !self.yes && ui.terminal.stdin && ui.terminal.stderr {
            confirm(manager, &instances, &targets, ui).await?;
        }
        let outcomes: Vec<(String, Result<(), Failure>)> = stream::iter(targets)
            .map(async |(name, target)| match target {
                Ok(id) => {
                    let removed = manager.remove(id, &manager.caller()).await;
                    (id.to_string(), removed.map_err(|error| Failure::from(&error)))
                }
                Err(failure) => (name, Err(failure)),
            })
            .buffered(CONCURRENT_DROPS)
            .collect()
            .await;
        let mut code = ExitCode::Ok;
        for failure in outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
            let failed = ui.error(failure);
            if code == ExitCode::Ok {
                code = failed;
            }
        }
        let results: Vec<Outcome> = outcomes
            .into_iter()
            .map(|(id, outcome)| Outcome {
                id,
                dropped: outcome.is_ok(),
            })
            .collect();
        ui.result(&results, || {
            let dropped = results.iter().filter(|result| result.dropped);
            dropped.map(|result| ["dropped ", &result.id, "\n"].concat()).collect()
        })?;
        Ok(code)
    }
}

async fn confirm(
    manager: &InstanceManager,
    instances: &[Instance],
    targets: &[(String, Result<InstanceId, Failure>)],
    ui: &mut Ui,
) -> Result<(), Failure> {
    let is_meant = |id| targets.iter().any(|(_, target)| target.as_ref() == Ok(&id));
    let meant = instances.iter().filter(|instance| is_meant(instance.id));
    let meant: Vec<Instance> = meant.cloned().collect();
    if meant.is_empty() {
        return Ok(());
    }
    let left = manager.sweeper().left(&meant).await;
    let doomed: Vec<(Instance, Left)> = meant.into_iter().zip(left).collect();
    let question = format!(
        "{}Drop {} with all data?",
        instance_table(&doomed, SystemTime::now()),
        count(doomed.len())
    );
    if ui.confirm(&question).await {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Failed,
        "nothing was dropped: it was not confirmed",
        "`--yes` doesn't ask.",
    ))
}

fn count(instances: usize) -> String {
    match instances {
        1 => "this instance".to_owned(),
        several => format!("these {several} instances"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio_util::task::TaskTracker;

    use super::super::ui::{Format, Terminal, fake};
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::{Caller, ConnectionUri, CreateRequest, Defaults, Found, Image, InstanceSpec, Limits, Status};
    use crate::manager::Settings;
    use crate::owner::Owners;
    use crate::policy::{Action, Inventory, Policy, Rejection};

    /// Shows everything, and keeps instances that are not stopped.
    #[derive(Debug)]
    struct KeepsRunning;

    #[async_trait]
    impl Policy for KeepsRunning {
        async fn plan_create(
            &self,
            _: &CreateRequest,
            _: &Defaults,
            _: &Caller,
            _: Arc<dyn Inventory>,
        ) -> Result<InstanceSpec, Rejection> {
            Err(Rejection::Denied("nothing is created here".into()))
        }

        async fn authorize(
            &self,
            action: Action,
            target: &Instance,
            _: &Caller,
            _: Arc<dyn Inventory>,
        ) -> Result<(), Rejection> {
            match (action, target.status) {
                (Action::Drop, Status::Running) => Err(Rejection::Denied("it is in use".into())),
                _ => Ok(()),
            }
        }

        async fn connection_uri(&self, _: &Found) -> Result<ConnectionUri, Rejection> {
            Err(Rejection::Denied("nothing is connected to here".into()))
        }
    }

    const TYPING: Terminal = Terminal {
        stdin: true,
        stdout: true,
        stderr: true,
        colour: false,
        unicode: false,
    };

    struct Told {
        outcome: Result<ExitCode, FailureCode>,
        stdout: String,
        stderr: String,
        left: usize,
    }

    /// Runs `drop` on three instances: two stopped ones and a running one. `{0}` to `{2}` in an argument are their ids.
    async fn run(arguments: &[&str], format: Format, terminal: Terminal, typed: &'static str) -> Told {
        let (engine, first) = FakeEngine::default().with_instance(Status::Stopped);
        let (engine, second) = engine.with_instance(Status::Running);
        let (engine, third) = engine.with_instance(Status::Stopped);
        let engine = Arc::new(engine);
        let settings = Settings {
            defaults: Defaults {
                image: Image::new("postgres", "17").expect("an image"),
                limits: Limits::new(512, 1000).expect("limits"),
                durable: false,
            },
            ports: "15432-25432".parse().expect("a range"),
            pool_size: 0,
            ready_timeout: Duration::from_secs(1),
            keeps_on_exit: false,
            team: None,
        };
        let manager = InstanceManager::new(
            Arc::clone(&engine) as _,
            Arc::new(KeepsRunning),
            settings,
            Owners::new(None),
            TaskTracker::new(),
        );
        let named = |text: &str, names: [&str; 3], ids: [&str; 3]| {
            names
                .iter()
                .zip(ids)
                .fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
        };
        let ids = [first, second, third].map(|id| id.to_string());
        let ids = [ids[0].as_str(), &ids[1], &ids[2]];
        let verb = Drop {
            ids: arguments
                .iter()
                .filter(|text| !text.starts_with("--"))
                .map(|text| named(text, ["{0}", "{1}", "{2}"], ids).parse().expect("an argument"))
                .collect(),
            all: arguments.contains(&"--all"),
            yes: arguments.contains(&"--yes"),
        };
        let (mut ui, stdout, stderr) = fake::ui(format, terminal, typed);
        let outcome = verb.run(&manager, &mut ui).await.map_err(|failure| failure.code);
        let left = engine.instances.lock().expect("unpoisoned").len();
        let (stdout, stderr) = (stdout.text(), stderr.text());
        Told {
            outcome,
            stdout: named(&stdout, ids, ["{0}", "{1}", "{2}"]),
            stderr: named(&stderr, ids, ["{0}", "{1}", "{2}"]),
            left,
        }
    }

    #[tokio::test]
    async fn several_are_dropped_in_the_order_in_which_they_were_named() {
        let told = run(&["{2}", "{0}"], Format::Table, Terminal::default(), "").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Ok), 1));
        assert_eq!(told.stdout, "dropped {2}\ndropped {0}\n");
    }

    #[tokio::test]
    async fn one_that_fails_stops_no_other_and_decides_the_exit_code() {
        let told = run(&["{1}", "ffffffff-ffff", "{0}"], Format::Json, Terminal::default(), "").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Refused), 2));
        insta::assert_snapshot!(told.stdout, @r#"
        [
          {
            "id": "{1}",
            "dropped": false
          },
          {
            "id": "ffffffff-ffff",
            "dropped": false
          },
          {
            "id": "{0}",
            "dropped": true
          }
        ]
        "#);
        insta::assert_snapshot!(told.stderr, @r#"
        {"error":{"code":"denied","message":"the policy denies it: it is in use","advice":"Ask for something that the policy allows, or ask whoever keeps the policy to change it.","fields":[]}}
        {"error":{"code":"not_found","message":"there is no instance whose id begins with ffffffff-ffff","advice":"`dev-postgres-mcp postgres list` shows those that there are.","fields":[]}}
        "#);
    }

    #[tokio::test]
    async fn somebody_who_types_is_asked_and_shown_what_would_go() {
        let told = run(&["{0}", "{2}"], Format::Table, TYPING, "y\n").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Ok), 1));
        assert!(
            told.stderr.contains("{0}") && told.stderr.contains("{2}") && !told.stderr.contains("{1}"),
            "{}",
            told.stderr
        );
        assert!(
            told.stderr.ends_with("Drop these 2 instances with all data? [y/N] "),
            "{}",
            told.stderr
        );
    }

    #[tokio::test]
    async fn without_a_yes_nothing_is_dropped() {
        let told = run(&["{0}"], Format::Table, TYPING, "\n").await;
        assert_eq!((told.outcome, told.left), (Err(FailureCode::Failed), 3));
    }

    #[tokio::test]
    async fn yes_given_beforehand_asks_nobody() {
        let told = run(&["{0}", "--yes"], Format::Table, TYPING, "").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Ok), 2));
        assert_eq!(told.stderr, "");
    }

    #[tokio::test]
    async fn one_that_is_named_twice_is_dropped_once() {
        let told = run(&["{0}", "mcp-postgres-{0}"], Format::Table, Terminal::default(), "").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Ok), 2));
        assert_eq!(told.stdout, "dropped {0}\n");
    }

    #[tokio::test]
    async fn all_means_all() {
        let told = run(&["--all"], Format::Table, Terminal::default(), "").await;
        assert_eq!((told.outcome, told.left), (Ok(ExitCode::Refused), 1));
        assert_eq!(told.stdout, "dropped {0}\ndropped {2}\n");
    }
}
