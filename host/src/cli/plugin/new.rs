//! `plugin new`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, FailureCode, printable};
use crate::plugins::scaffold::{Language, Name, Scaffold, ScaffoldError};
use crate::plugins::versions::World;

/// Begin a new plugin: files that build and pass `plugin check` as they are
///
/// Its README has the commands that build it.
#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// The plugin's name: lower-case letters, digits and hyphens
    name: Name,

    /// What it is: a bundle offers tools, a policy holds a team's rules
    #[arg(long, value_parser = worlds())]
    world: World,

    /// What it is written in
    #[arg(long, default_value = "rust", value_parser = languages())]
    language: Language,

    /// The folder for its files, which must not be there or be empty [default: the name, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

fn worlds() -> impl TypedValueParser<Value = World> {
    PossibleValuesParser::new(World::ALL.map(World::as_str)).try_map(|word| {
        let known = World::ALL.into_iter().find(|world| world.as_str() == word);
        known.ok_or("there is no such world")
    })
}

fn languages() -> impl TypedValueParser<Value = Language> {
    PossibleValuesParser::new(Language::ALL.map(Language::as_str)).try_map(|word| {
        let known = Language::ALL.into_iter().find(|language| language.as_str() == word);
        known.ok_or("there is no such language")
    })
}

impl New {
    pub(super) fn run(self, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let scaffold = Scaffold {
            name: self.name,
            world: self.world,
            language: self.language,
        };
        let folder = self.path.unwrap_or_else(|| PathBuf::from(scaffold.name.as_str()));
        scaffold.write(&folder).map_err(|error| failure(&error))?;
        let files: Vec<PathBuf> = scaffold.files().iter().map(|(path, _)| folder.join(path)).collect();
        ui.result(&json!({ "folder": folder, "files": files }), || lines(&files))?;
        let readme = folder.join("README.md");
        ui.note(&format!(
            "{} says how to build it",
            printable(&readme.display().to_string())
        ));
        Ok(ExitCode::Ok)
    }
}

fn failure(error: &ScaffoldError) -> Failure {
    let (code, advice) = match error {
        ScaffoldError::Occupied(_) => (
            FailureCode::InvalidArguments,
            "Give another folder with --path; nothing is ever overwritten.",
        ),
        ScaffoldError::Unwritable { .. } => (FailureCode::Failed, "Nothing is left of it: try again elsewhere."),
    };
    Failure::new(code, error.to_string(), advice)
}

fn lines(files: &[PathBuf]) -> String {
    let line = |path: &Path| printable(&path.display().to_string()) + "\n";
    files.iter().map(|path| line(path)).collect()
}
