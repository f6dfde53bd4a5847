//! `plugin update`.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::app::{App, Update as Found};
use crate::artifact::lock::Pin;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, FailureCode, printable};
use crate::plugins::grants::Grants;
use crate::plugins::versions::World;

/// Take what the registries have now of the components that come from there
///
/// A tag is looked up once, when its component is first used, and what it was then is pinned in dev-postgres-mcp.lock
/// beside the configuration file. This command looks it up again, shows what has changed (digest, tools, what it asks
/// the host for) and pins that. Where a component asks for more than was agreed to, it asks first.
#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    /// `policy`, or a bundle's name; without one, every component from a registry
    name: Option<String>,

    /// Agree to whatever they ask the host for
    #[arg(short, long)]
    yes: bool,
}

/// One component, as programs are told of it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    name: &'a str,
    world: World,
    reference: &'a str,
    /// `pinned` for the first time, `updated`, or `unchanged`.
    state: &'static str,
    before: Option<&'a Pin>,
    after: &'a Pin,
    tools: Tools<'a>,
    grants: GrantChange,
}

#[derive(Debug, Serialize)]
struct Tools<'a> {
    added: Vec<&'a str>,
    removed: Vec<&'a str>,
    changed: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct GrantChange {
    added: Grants,
    removed: Grants,
}

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    /// Whether the lock file now has what is in `components`.
    written: bool,
    components: Vec<Told<'a>>,
}

impl Update {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let updates = app.updates(self.name.as_deref()).await?;
        if updates.is_empty() {
            ui.note("no component comes from a registry");
        }
        let growing: Vec<&Found> = updates
            .iter()
            .filter(|update| !update.more_grants().is_empty())
            .collect();
        if !growing.is_empty() && !self.yes {
            let agreed = if ui.terminal.stdin && ui.terminal.stderr {
                let question = format!("{}{}Agree?", text(&updates), asked(&growing));
                ui.confirm(&question).await
            } else {
                show(&updates, false, ui)?;
                false
            };
            if !agreed {
                return Err(refused(&growing));
            }
        }
        app.agree(&updates).await?;
        show(&updates, true, ui)?;
        Ok(ExitCode::Ok)
    }
}

fn show(updates: &[Found], written: bool, ui: &mut Ui) -> Result<(), Failure> {
    let components = updates.iter().map(Told::from).collect();
    ui.result(&Outcome { written, components }, || text(updates))
}

/// What those that want more want, one on a line.
fn asked(growing: &[&Found]) -> String {
    let mut lines = String::new();
    for update in growing {
        // Writing to a String can't fail.
        let _ = writeln!(
            lines,
            "{} asks for more than was agreed to: {}.",
            printable(&update.after.name),
            update.more_grants()
        );
    }
    lines
}

fn refused(growing: &[&Found]) -> Failure {
    let names: Vec<&str> = growing.iter().map(|update| update.after.name.as_str()).collect();
    let wants: Vec<String> = growing
        .iter()
        .map(|update| format!("{} asks for {}", update.after.name, update.more_grants()))
        .collect();
    let advice = match names.as_slice() {
        [name] => format!("If it should have that: `dev-postgres-mcp plugin update {name} --yes`."),
        _ => "If they should have that: `dev-postgres-mcp plugin update --yes`.".to_owned(),
    };
    Failure::new(
        FailureCode::Failed,
        format!(
            "nothing was pinned: {}, and nobody has agreed to that",
            wants.join("; ")
        ),
        advice,
    )
}

impl<'a> From<&'a Found> for Told<'a> {
    fn from(update: &'a Found) -> Self {
        let (before, after) = (update.before.as_ref(), &update.after);
        let state = match before {
            None => "pinned",
            Some(before) if before == after => "unchanged",
            Some(_) => "updated",
        };
        let agreed = before.map_or_else(Grants::default, |before| before.grants);
        Self {
            name: &after.name,
            world: after.world,
            reference: &after.reference,
            state,
            before,
            after,
            tools: Tools::between(before, after),
            grants: GrantChange {
                added: after.grants.without(agreed),
                removed: agreed.without(after.grants),
            },
        }
    }
}

impl<'a> Tools<'a> {
    fn between(before: Option<&'a Pin>, after: &'a Pin) -> Self {
        let old = |name: &str| before.and_then(|before| before.tools.get(name));
        let of_old = before.iter().flat_map(|before| before.tools.keys());
        Self {
            added: names(after.tools.keys().filter(|name| old(name).is_none())),
            removed: names(of_old.filter(|name| !after.tools.contains_key(*name))),
            changed: names(
                after
                    .tools
                    .iter()
                    .filter(|(name, digest)| old(name).is_some_and(|old| old != *digest))
                    .map(|(name, _)| name),
            ),
        }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    names.map(String::as_str).collect()
}

/// For people: a paragraph for each component.
fn text(updates: &[Found]) -> String {
    let mut lines = Vec::new();
    for update in updates {
        let told = Told::from(update);
        lines.push(format!("{} {} ({})", told.state, told.name, told.reference));
        let manifest = format!("sha256:{}", told.after.manifest);
        lines.push(match told.before {
            Some(before) if before.manifest != told.after.manifest => {
                format!("  digest    sha256:{} -> {manifest}", before.manifest)
            }
            _ => format!("  digest    {manifest}"),
        });
        let mut tools = Vec::new();
        for (sign, names) in [
            ('+', &told.tools.added),
            ('-', &told.tools.removed),
            ('~', &told.tools.changed),
        ] {
            tools.extend(names.iter().map(|name| format!("{sign} {name}")));
        }
        let mut grants = Vec::new();
        for (sign, set) in [('+', told.grants.added), ('-', told.grants.removed)] {
            grants.extend(set.iter().map(|grant| format!("{sign} {}", grant.as_str())));
        }
        for (label, changes) in [("tools", tools), ("asks for", grants)] {
            if !changes.is_empty() {
                lines.push(format!("  {label:<9} {}", changes.join(", ")));
            }
        }
    }
    // The names are a stranger's.
    lines
        .iter()
        .flat_map(|line| [printable(line), "\n".to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::plugins::grants::Grant;

    fn pin(content: &[u8], grants: &[Grant], tools: &[(&str, &[u8])]) -> Pin {
        Pin {
            name: "acme".into(),
            world: World::ToolBundle,
            reference: "oci://ghcr.io/acme/tools:1".into(),
            manifest: Digest::of(content),
            sha256: Digest::of(content),
            grants: grants.iter().copied().collect(),
            tools: tools
                .iter()
                .map(|(name, told)| ((*name).to_owned(), Digest::of(told)))
                .collect(),
        }
    }

    #[test]
    fn a_change_is_told_by_digest_tools_and_grants() {
        let first = pin(
            b"1",
            &[Grant::Create, Grant::Log],
            &[("a", b"a"), ("b", b"b"), ("c", b"c")],
        );
        let second = pin(
            b"2",
            &[Grant::Create, Grant::Sql],
            &[("a", b"a"), ("b", b"B"), ("d", b"d")],
        );
        let updates = [
            Found {
                before: None,
                after: first.clone(),
            },
            Found {
                before: Some(first.clone()),
                after: second,
            },
            Found {
                before: Some(first.clone()),
                after: first,
            },
        ];
        insta::assert_snapshot!(text(&updates), @"
        pinned acme (oci://ghcr.io/acme/tools:1)
          digest    sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
          tools     + a, + b, + c
          asks for  + create, + log
        updated acme (oci://ghcr.io/acme/tools:1)
          digest    sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b -> sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35
          tools     + d, - c, ~ b
          asks for  + sql, - log
        unchanged acme (oci://ghcr.io/acme/tools:1)
          digest    sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
        ");
        insta::assert_snapshot!(asked(&[&updates[1]]), @"acme asks for more than was agreed to: sql.");
        let failure = refused(&[&updates[1]]);
        insta::assert_snapshot!(format!("{failure}\n{}", failure.advice), @"
        nothing was pinned: acme asks for sql, and nobody has agreed to that
        If it should have that: `dev-postgres-mcp plugin update acme --yes`.
        ");
        assert!(
            updates[0].more_grants().is_empty(),
            "the first one is agreed to by the configuration"
        );
    }
}
