//! `completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::failure::Failure;

/// Print a script that completes this program's commands and options in a shell
///
/// For bash: dev-postgres-mcp completions bash > ~/.local/share/bash-completion/completions/dev-postgres-mcp
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, mut command: Command, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        ui.raw(&script)?;
        Ok(ExitCode::Ok)
    }
}
