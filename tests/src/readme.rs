//! The parts of README.md that are made from what they describe.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use dev_postgres_mcp::app::App;
use dev_postgres_mcp::cli::{self, ExitCode};
use dev_postgres_mcp::config::{self, Config, Flags};
use dev_postgres_mcp::environment::Environment;
use dev_postgres_mcp::plugins::budget::{Budget, LIMITS};
use dev_postgres_mcp::plugins::tools::{Hints, Tool};
use serde_json::{Map, Value};

use crate::bench::{Results, readme_section};

const BEGIN: &str = "<!-- generated: ";
const BEGIN_CLOSE: &str = " -->\n";
const END: &str = "<!-- end -->";

/// A file of the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A section's name, as the marker in the README has it, and its text.
pub type Section = (&'static str, String);

/// Makes every section anew.
///
/// # Errors
/// If the built-in components can't be loaded, or the benchmark's results can't be read.
pub async fn sections() -> Result<Vec<Section>, String> {
    let nowhere = Flags {
        file: None,
        settings: Vec::new(),
    };
    let config = Config::load(&nowhere, &Environment::default()).map_err(|error| error.to_string())?;
    let app = App::new(config, &Environment::default());
    let toolbox = app.bundles().await.map_err(|failure| failure.to_string())?.toolbox();
    Ok(vec![
        (
            "speed",
            readme_section(&Results::read(&repository("tests/bench/results.json"))?)?,
        ),
        ("tools", tools(toolbox.iter().map(|(_, tool)| tool))),
        ("commands", commands(&cli::command())),
        ("exit codes", exit_codes()),
        ("configuration", config::reference_markdown()),
        ("budgets", budgets()),
    ])
}

/// A README with new sections.
#[derive(Debug)]
pub struct Rewritten {
    /// The whole of it.
    pub text: String,
    /// The sections that are not what they were.
    pub stale: Vec<&'static str>,
}

/// Puts the sections between their markers, `<!-- generated: NAME -->` and `<!-- end -->`.
///
/// # Errors
/// If markers and sections don't match one to one.
pub fn rewrite(readme: &str, sections: &[Section]) -> Result<Rewritten, String> {
    let (mut text, mut stale, mut placed) = (String::new(), Vec::new(), Vec::new());
    let mut rest = readme;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(BEGIN_CLOSE).ok_or("a marker doesn't end its line")?;
        let (old, after) = after
            .split_once(END)
            .ok_or_else(|| format!("the section {name} has no {END}"))?;
        let (name, new) = sections
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("nobody makes a section {name}"))?;
        let new = format!("\n{}\n\n", new.trim());
        if new != old {
            stale.push(*name);
        }
        placed.push(*name);
        text.extend([before, BEGIN, name, BEGIN_CLOSE, &new, END]);
        rest = after;
    }
    text.push_str(rest);
    match sections.iter().find(|(name, _)| !placed.contains(name)) {
        Some((name, _)) => Err(format!("there is no {BEGIN}{name}{}", BEGIN_CLOSE.trim_end())),
        None => Ok(Rewritten { text, stale }),
    }
}

fn tools<'a>(tools: impl Iterator<Item = &'a Tool>) -> String {
    let mut out = String::new();
    for tool in tools {
        let arguments = fields("Argument", tool.input_schema());
        let result = tool.output_schema().map(|schema| fields("Result", schema));
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "### {}\n\n**{}** ({})\n\n{}\n\n<details><summary>Arguments and result</summary>\n\n{arguments}{}</details>\n\n",
            tool.name(),
            tool.title(),
            hints(tool.hints()),
            tool.description(),
            result.unwrap_or_default(),
        );
    }
    out
}

fn hints(hints: Hints) -> String {
    [
        ("read-only", hints.read_only),
        ("destructive", hints.destructive),
        ("idempotent", hints.idempotent),
        ("open world", hints.open_world),
    ]
    .map(|(hint, is)| format!("{hint}: {}", if is { "yes" } else { "no" }))
    .join(", ")
}

/// The properties of an object as a table, those of nested objects below their own.
fn fields(heading: &str, schema: &Map<String, Value>) -> String {
    let rows = rows("", schema);
    if rows.is_empty() {
        return format!("{heading}s: none.\n\n");
    }
    format!("| {heading} | Type | Meaning |\n|---|---|---|\n{rows}\n")
}

fn rows(path: &str, schema: &Map<String, Value>) -> String {
    let required: Vec<&str> = texts(schema.get("required")).collect();
    let mut out = String::new();
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let path = format!("{path}{name}");
        let optional = if required.contains(&name.as_str()) {
            ""
        } else {
            ", optional"
        };
        let _ = writeln!(
            out,
            "| `{path}` | {}{optional} | {} |",
            kind(property),
            cell(property["description"].as_str().unwrap_or_default())
        );
        let items = property.get("items").and_then(Value::as_object);
        out.push_str(&items.map_or_else(String::new, |items| rows(&format!("{path}[]."), items)));
    }
    out
}

fn kind(property: &Value) -> String {
    let kind = property["type"].as_str().unwrap_or("any");
    let values: Vec<String> = texts(property.get("enum")).map(|value| format!("`{value}`")).collect();
    match (values.is_empty(), property["format"].as_str()) {
        (false, _) => values.join(", "),
        (true, Some(format)) => format!("{kind} ({format})"),
        (true, None) => kind.to_owned(),
    }
}

fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn commands(program: &Command) -> String {
    let mut out = String::from("| Command | What it does |\n|---|---|\n");
    let mut waiting = vec![program];
    while let Some(command) = waiting.pop() {
        let verbs: Vec<&Command> = command
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help")
            .collect();
        if verbs.is_empty() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "| `{}` | {} |", usage(command), cell(&about));
        }
        waiting.extend(verbs.into_iter().rev());
    }
    out
}

/// The command with the arguments that are its own.
fn usage(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let is_own = |arg: &&Arg| !arg.is_global_set() && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    command
        .get_arguments()
        .filter(is_own)
        .fold(name.to_owned(), |usage, arg| {
            if arg.is_positional() {
                format!("{usage} {arg}")
            } else {
                format!("{usage} [{arg}]")
            }
        })
}

fn exit_codes() -> String {
    ExitCode::ALL
        .into_iter()
        .fold(String::from("| Exit code | Meaning |\n|---|---|\n"), |table, code| {
            format!("{table}| {} | {} |\n", code as u8, cell(code.meaning()))
        })
}

fn budgets() -> String {
    let heading = "| For one call | Tool bundle | In `limits` | At most | Policy |\n|---|---|---|---|---|\n";
    let mut out = String::from(heading);
    for limit in LIMITS {
        let [bundle, policy] = [Budget::BUNDLE, Budget::POLICY].map(|budget| limit.shown(&budget));
        let (what, key, max) = (limit.what, limit.key, limit.shown_max());
        let _ = writeln!(out, "| {what} | {bundle} | `{key}` | {max} | {policy} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> [Section; 2] {
        [("a", "new a\n".into()), ("b", "same b\n".into())]
    }

    #[test]
    fn sections_are_replaced_and_all_else_is_kept() {
        let readme =
            "# T\n<!-- generated: a -->\nold\n<!-- end -->\ntext\n<!-- generated: b -->\n\nsame b\n\n<!-- end -->\nend";
        let rewritten = rewrite(readme, &sections()).expect("markers match");
        assert_eq!(rewritten.stale, ["a"]);
        assert_eq!(rewritten.text, readme.replace("\nold\n", "\n\nnew a\n\n"));
        let again = rewrite(&rewritten.text, &sections()).expect("markers match");
        assert!(again.stale.is_empty());
        assert_eq!(again.text, rewritten.text);
    }

    #[test]
    fn markers_that_match_no_section_are_errors_and_so_are_sections_without_a_marker() {
        let both = "<!-- generated: a -->\n<!-- end --><!-- generated: b -->\n<!-- end -->";
        for (readme, error) in [
            ("no marker", "there is no <!-- generated: a -->"),
            ("<!-- generated: a -->\n", "the section a has no <!-- end -->"),
            ("<!-- generated: a", "a marker doesn't end its line"),
            (&both.replace("b -->", "c -->"), "nobody makes a section c"),
        ] {
            assert_eq!(rewrite(readme, &sections()).expect_err(readme), error);
        }
        assert!(rewrite(both, &sections()).is_ok());
    }
}
