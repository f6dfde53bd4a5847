//! `postgres create`.

use std::time::SystemTime;

use clap::Args;

use super::exit::ExitCode;
use super::ui::Ui;
use super::view::{CreatedView, connection_block};
use crate::failure::Failure;
use crate::instance::CreateRequest;
use crate::manager::InstanceManager;

/// Create a PostgreSQL instance and print how to connect
///
/// Returns once the instance answers queries. It lives until it is dropped or its time to live has passed, and its data goes
/// with it. An interrupted create leaves nothing behind. The policy chooses what is left open.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// PostgreSQL's version: 17, 16.4 [default: the setting instance.version]
    #[arg(long)]
    version: Option<String>,

    /// The name of the database
    #[arg(long)]
    database: Option<String>,

    /// The name of the superuser
    #[arg(long)]
    username: Option<String>,

    /// Read the superuser's password from standard input instead of generating one
    ///
    /// All of it is the password, but for a line ending at its end. There is no option that takes the password
    /// itself: every user of the machine could read it.
    #[arg(long)]
    password_stdin: bool,

    /// How long it is to live: 90s, 2h, 3days [default: until it is dropped]
    #[arg(long, value_name = "TIME", value_parser = ttl_seconds)]
    ttl: Option<u64>,
}

/// A time to live in whole seconds.
pub(super) fn ttl_seconds(text: &str) -> Result<u64, String> {
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl.as_secs() > 0 => Ok(ttl.as_secs()),
        Ok(_) => Err("must be at least 1s".into()),
        Err(error) => Err(format!("must be a time such as 90s, 2h or 3days: {error}")),
    }
}

impl Create {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let password = if self.password_stdin {
            Some(ui.read_password().await?)
        } else {
            None
        };
        let request = CreateRequest {
            version: self.version,
            database: self.database,
            username: self.username,
            password,
            ttl_seconds: self.ttl,
        };
        let progress = ui.progress();
        let created = manager.create(&request, &manager.caller(), &progress.sink()).await;
        drop(progress);
        let new = created.map_err(|error| Failure::from(&error))?;
        let connection = new.connection();
        for warning in new.warnings() {
            ui.note(&format!("warning: {warning}"));
        }
        let block = || connection_block(connection, SystemTime::now());
        ui.result(&CreatedView::new(connection, new.warnings()), block)
            .map_err(|failure| Failure {
                advice: "The new instance is dropped again: nobody would know its password.".into(),
                ..failure
            })?;
        // Not before: an instance that nobody has been told of would live on unknown.
        new.keep().await.map_err(|error| Failure {
            advice: "The new instance is dropped again: create another.".into(),
            ..Failure::from(&error)
        })?;
        Ok(ExitCode::Ok)
    }
}
