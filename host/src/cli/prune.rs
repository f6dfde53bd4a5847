//! `postgres prune`.

use clap::Args;
use serde::Serialize;

use super::exit::ExitCode;
use super::ui::Ui;
use super::view::{bare_table, trimmed};
use crate::engine::Pruned;
use crate::failure::{Failure, printable};
use crate::manager::InstanceManager;

/// Remove what is of no use any more: instances that are over, old templates, an unused network, what killed processes left
///
/// An instance is over when its time to live has passed, or the MCP server that it belongs to has ended without dropping it.
/// A template is what instances start from. It is old if its image or its programs have changed or gone, or after 30 days;
/// it is made anew when it is needed.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct PruneView {
    dry_run: bool,
    count: usize,
    removed: Vec<PrunedView>,
}

#[derive(Serialize)]
struct PrunedView {
    kind: &'static str,
    name: String,
    reason: String,
}

impl Prune {
    pub(super) async fn run(self, manager: &InstanceManager, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let mut pruned = Vec::new();
        let outcome = manager.prune(self.dry_run, &mut pruned).await;
        let outcome = outcome.map_err(|error| Failure::from(&error));
        match (&outcome, pruned.is_empty()) {
            (Err(_), true) => return outcome.map(|()| ExitCode::Ok),
            (Ok(()), true) => ui.note("there is nothing to remove"),
            _ if self.dry_run => ui.note("this would be removed:"),
            _ => {}
        }
        let view = PruneView {
            dry_run: self.dry_run,
            count: pruned.len(),
            removed: pruned
                .into_iter()
                .map(|Pruned { kind, name, reason }| PrunedView { kind, name, reason })
                .collect(),
        };
        ui.result(&view, || table(&view.removed))?;
        // What was removed is gone, whatever came then.
        outcome.map(|()| ExitCode::Ok)
    }
}

fn table(removed: &[PrunedView]) -> String {
    if removed.is_empty() {
        return String::new();
    }
    let mut table = bare_table();
    table.set_header(["KIND", "NAME", "REASON"]);
    for PrunedView { kind, name, reason } in removed {
        table.add_row([kind, printable(name).as_str(), printable(reason).as_str()]);
    }
    trimmed(&table) + "\n"
}
