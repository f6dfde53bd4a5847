//! What a container takes of the machine, and how often it has taken too much, as its kernel counts it.

use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse, HostConfig};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures_util::StreamExt;

use super::{DockerEngine, container};
use crate::engine::EngineError;
use crate::instance::{MemoryKills, Share, Status, Usage};

/// Where the kernel tells a container how often it has killed a process of it: control groups of version 2 and of 1.
const KILL_COUNTERS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];
/// How much of these is read in bytes: they have some hundred.
const COUNTERS_BYTES_MAX: usize = 4 << 10;

/// `None` if the container has gone.
pub(super) async fn usage(engine: &DockerEngine, container_id: &str) -> Result<Option<Usage>, EngineError> {
    let with_size = InspectContainerOptionsBuilder::new().size(true).build();
    let Some(inspected) = engine.inspect_with(container_id, with_size).await? else {
        return Ok(None);
    };
    let disk_bytes = inspected.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
    let runs = match container::status(inspected.state.and_then(|state| state.status)) {
        Status::Running | Status::Paused => true,
        Status::Created | Status::Stopped => false,
    };
    let stats = if runs { stats(engine, container_id).await? } else { None };
    let limits = inspected.host_config.unwrap_or_default();
    Ok(Some(Usage {
        disk_bytes,
        ..stats.map_or_else(Usage::default, |stats| taken(&stats, &limits))
    }))
}

/// What the kernel has counted twice, a second apart; `None` if the container has ended meanwhile.
async fn stats(engine: &DockerEngine, container_id: &str) -> Result<Option<ContainerStatsResponse>, EngineError> {
    let options = StatsOptionsBuilder::new().stream(false).build();
    let counted = engine
        .client
        .call("asking what the container takes", |docker| async move {
            let mut stats = std::pin::pin!(docker.stats(container_id, Some(options)));
            stats.next().await.transpose()
        })
        .await;
    match counted {
        Err(error) if error.status() == Some(404) => Ok(None),
        counted => Ok(counted?),
    }
}

/// `None` if the container has gone, or doesn't tell.
pub(super) async fn memory_kills(
    engine: &DockerEngine,
    container_id: &str,
) -> Result<Option<MemoryKills>, EngineError> {
    let Some(inspected) = engine.inspect(container_id).await? else {
        return Ok(None);
    };
    let state = inspected.state.unwrap_or_default();
    // Docker says it of a container that has ended, whichever of its processes it was; of one that runs it says nothing.
    let said = (state.oom_killed == Some(true)).then_some(1);
    let counted = match container::status(state.status) {
        Status::Running => counted_kills(engine, container_id).await?,
        Status::Created | Status::Paused | Status::Stopped => None,
    };
    Ok(counted.max(said).map(|count| MemoryKills {
        count,
        limit_bytes: inspected.host_config.and_then(|limits| limit(limits.memory)),
    }))
}

/// What the kernel tells the container itself: Docker doesn't pass it on. `None` if the image has no `cat`, or the kernel
/// doesn't count.
async fn counted_kills(engine: &DockerEngine, container_id: &str) -> Result<Option<u64>, EngineError> {
    let cat = CreateExecOptions {
        cmd: Some([&["cat"], &KILL_COUNTERS[..]].concat()),
        // Nobody's rights are enough.
        user: Some("65534:65534"),
        attach_stdout: Some(true),
        ..CreateExecOptions::default()
    };
    let said = engine
        .client
        .call(
            "asking how often the container had too little memory",
            |docker| async move {
                let exec = docker.create_exec(container_id, cat).await?;
                let mut said = Vec::new();
                if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec.id, None).await? {
                    while let Some(part) = output.next().await {
                        said.extend_from_slice(part?.as_ref());
                        if said.len() > COUNTERS_BYTES_MAX {
                            break;
                        }
                    }
                }
                Ok(said)
            },
        )
        .await;
    match said {
        Ok(said) => Ok(kills(&String::from_utf8_lossy(&said))),
        // It has ended or was paused meanwhile.
        Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn kills(counters: &str) -> Option<u64> {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    counters.lines().find_map(count)
}

/// Docker's zero is no limit.
fn limit(value: Option<i64>) -> Option<u64> {
    value
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0)
}

fn taken(stats: &ContainerStatsResponse, limits: &HostConfig) -> Usage {
    Usage {
        cpu_millis: cpu_millis(stats).map(|used| Share {
            used,
            limit: limit(limits.nano_cpus).map(|nanos| nanos / 1_000_000),
        }),
        memory_bytes: stats.memory_stats.as_ref().and_then(memory_bytes).map(|used| Share {
            used,
            limit: limit(limits.memory),
        }),
        disk_bytes: None,
    }
}

/// The CPU time between the two counts, by the time between them.
fn cpu_millis(stats: &ContainerStatsResponse) -> Option<u64> {
    let total = |count: &Option<ContainerCpuStats>| count.as_ref()?.cpu_usage.as_ref()?.total_usage;
    let at = |moment: &Option<String>| humantime::parse_rfc3339(moment.as_ref()?).ok();
    let taken = Duration::from_nanos(total(&stats.cpu_stats)?.checked_sub(total(&stats.precpu_stats)?)?);
    let passed = at(&stats.read)?.duration_since(at(&stats.preread)?).ok()?;
    u64::try_from((taken * 1000).as_micros().checked_div(passed.as_micros())?).ok()
}

/// As `docker stats` has it: what the kernel can have back at once isn't counted.
fn memory_bytes(memory: &ContainerMemoryStats) -> Option<u64> {
    let parts = memory.stats.as_ref();
    // Control groups of version 1 have the first, those of version 2 the second.
    let cache = parts.and_then(|parts| parts.get("total_inactive_file").or_else(|| parts.get("inactive_file")));
    Some(memory.usage?.saturating_sub(cache.copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(stats: Value) -> Usage {
        let stats = serde_json::from_value(stats).expect("as Docker has it");
        let limits = HostConfig {
            memory: Some(512 << 20),
            nano_cpus: Some(1_500_000_000),
            ..HostConfig::default()
        };
        taken(&stats, &limits)
    }

    #[test]
    fn cpu_is_what_passed_between_two_counts_and_memory_is_what_the_kernel_cannot_have_back() {
        for cache in ["total_inactive_file", "inactive_file"] {
            let usage = read(json!({
                "read": "2026-11-25T13:26:15.500000000Z",
                "preread": "2026-11-25T13:26:14.500000000Z",
                "cpu_stats": { "cpu_usage": { "total_usage": 1_350_000_000 } },
                "precpu_stats": { "cpu_usage": { "total_usage": 1_100_000_000 } },
                "memory_stats": { "usage": 5 << 20, "stats": { cache: 2 << 20 } },
            }));
            let cpu = Share {
                used: 250,
                limit: Some(1500),
            };
            let memory = Share {
                used: 3 << 20,
                limit: Some(512 << 20),
            };
            assert_eq!((usage.cpu_millis, usage.memory_bytes), (Some(cpu), Some(memory)));
        }
    }

    #[test]
    fn kills_are_counted_by_control_groups_of_either_version() {
        assert_eq!(
            kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
            Some(2)
        );
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        for nonsense in ["", "oom_kill_disable 1\n", "oom_kill many\n", "oom_kill -1\n"] {
            assert_eq!(kills(nonsense), None);
        }
    }

    #[test]
    fn what_docker_does_not_count_is_not_told() {
        assert_eq!(read(json!({})), Usage::default());
        let once = json!({
            "read": "2026-11-25T13:26:15Z",
            "preread": "2026-11-25T13:26:15Z",
            "cpu_stats": { "cpu_usage": { "total_usage": 2 } },
            "precpu_stats": { "cpu_usage": { "total_usage": 1 } },
        });
        assert_eq!(read(once).cpu_millis, None);
        let unlimited = taken(
            &serde_json::from_value(json!({ "memory_stats": { "usage": 7 } })).expect("as Docker has it"),
            &HostConfig {
                memory: Some(0),
                ..HostConfig::default()
            },
        );
        assert_eq!(unlimited.memory_bytes, Some(Share { used: 7, limit: None }));
    }
}
