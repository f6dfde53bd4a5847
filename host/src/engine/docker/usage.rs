//! What a container takes of the machine, as its kernel counts it.

use std::time::Duration;

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse, HostConfig};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures_util::StreamExt;

use super::{DockerEngine, container};
use crate::engine::EngineError;
use crate::instance::{Share, Status, Usage};

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

fn taken(stats: &ContainerStatsResponse, limits: &HostConfig) -> Usage {
    // Docker's zero is no limit.
    let limit = |value: Option<i64>| {
        value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| *value > 0)
    };
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
