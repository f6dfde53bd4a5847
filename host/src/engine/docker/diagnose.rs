//! What `doctor` shows of Docker.

use std::path::Path;

use bollard::models::SystemInfo;

use super::endpoint::{Address, Endpoint};
use super::{DockerEngine, image, network};
use crate::engine::{Diagnosis, EngineError, Verdict};
use crate::instance::Image;

/// The API of Docker Engine 20.10, the oldest that this is tested with.
const OLDEST_API: (u32, u32) = (1, 41);
/// Less free disk than this, in GiB, is worth a warning: an image takes half of one, an instance a tenth to begin with.
const FREE_GIB_MIN: u64 = 2;

pub(super) async fn diagnose(engine: &DockerEngine, image: &Image) -> Vec<Diagnosis> {
    let docker = match docker(engine).await {
        Ok(diagnosis) => diagnosis,
        // Nothing else can be found out then.
        Err(error) => return vec![failed("Docker", error)],
    };
    let (image, network, info) = tokio::join!(image_line(engine, image), network_line(engine), info(engine));
    let mut lines = vec![docker, image, network];
    match info {
        Ok((endpoint, info)) => {
            lines.push(limits(&info));
            lines.extend(disk(&endpoint, &info));
        }
        Err(error) => lines.push(failed("limits", error)),
    }
    lines
}

fn failed(subject: &'static str, error: EngineError) -> Diagnosis {
    let detail = error.to_string();
    let advice = match error {
        EngineError::Unreachable { advice, .. } => advice,
        _ => "See whether `docker info` answers; restart Docker if it doesn't.".to_owned(),
    };
    Diagnosis::new(subject, Verdict::Bad, detail, advice)
}

async fn docker(engine: &DockerEngine) -> Result<Diagnosis, EngineError> {
    let endpoint = engine.client.connected()?.endpoint;
    let version = engine
        .client
        .call(
            "asking for Docker's version",
            |docker| async move { docker.version().await },
        )
        .await?;
    let api = version.api_version.unwrap_or_default();
    let detail = format!(
        "version {}, API {api}, {endpoint}",
        version.version.as_deref().unwrap_or("unknown")
    );
    Ok(if parse_api(&api).is_none_or(|api| api < OLDEST_API) {
        Diagnosis::new("Docker", Verdict::Bad, detail, "Update Docker to 20.10 or newer.")
    } else if version.os.as_deref().is_some_and(|os| os != "linux") {
        Diagnosis::new(
            "Docker",
            Verdict::Bad,
            format!("{detail}, for Windows containers"),
            "Switch Docker Desktop to Linux containers.",
        )
    } else {
        Diagnosis::new("Docker", Verdict::Good, detail, "")
    })
}

fn parse_api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn image_line(engine: &DockerEngine, image: &Image) -> Diagnosis {
    match image::is_here(&engine.client, image).await {
        Ok(true) => Diagnosis::new("image", Verdict::Good, format!("{image} is here"), ""),
        Ok(false) => Diagnosis::new(
            "image",
            Verdict::Good,
            format!("{image} is not here yet: the first instance pulls it"),
            format!("`docker pull {image}` does it ahead."),
        ),
        Err(error) => failed("image", error),
    }
}

async fn network_line(engine: &DockerEngine) -> Diagnosis {
    let name = &engine.settings.network;
    match network::look(&engine.client, name).await {
        Ok(present) if present.foreign => Diagnosis::new(
            "network",
            Verdict::Bad,
            network::foreign(name),
            format!("`docker network inspect {name}` shows what it is."),
        ),
        Ok(present) if present.ours.is_empty() => Diagnosis::new(
            "network",
            Verdict::Good,
            format!("{name} is made with the first instance"),
            "",
        ),
        Ok(_) => Diagnosis::new("network", Verdict::Good, format!("{name} is here"), ""),
        Err(error) => failed("network", error.into()),
    }
}

async fn info(engine: &DockerEngine) -> Result<(Endpoint, SystemInfo), EngineError> {
    let endpoint = engine.client.connected()?.endpoint;
    let info = engine
        .client
        .call("asking for Docker's state", |docker| async move { docker.info().await })
        .await?;
    Ok((endpoint.as_ref().clone(), info))
}

fn limits(info: &SystemInfo) -> Diagnosis {
    let missing: Vec<&str> = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "CPU"),
        (info.pids_limit, "processes"),
    ]
    .into_iter()
    .filter_map(|(supported, name)| (supported == Some(false)).then_some(name))
    .collect();
    if missing.is_empty() {
        Diagnosis::new("limits", Verdict::Good, "memory, CPU and processes can be limited", "")
    } else {
        Diagnosis::new(
            "limits",
            Verdict::Warning,
            format!("this Docker can't limit {}", missing.join(", ")),
            "For rootless Docker, delegate the cgroup controllers: https://docs.docker.com/engine/security/rootless.",
        )
    }
}

/// Free space where Docker keeps its data, if that is a folder of this machine.
fn disk(endpoint: &Endpoint, info: &SystemInfo) -> Option<Diagnosis> {
    let local = matches!(endpoint.address, Address::Socket(_))
        && cfg!(target_os = "linux")
        && info.operating_system.as_deref() != Some("Docker Desktop");
    let dir = info.docker_root_dir.as_deref().filter(|_| local)?;
    let gib = free_bytes(Path::new(dir))? >> 30;
    Some(if gib < FREE_GIB_MIN {
        Diagnosis::new(
            "disk",
            Verdict::Warning,
            format!("less than {FREE_GIB_MIN} GiB are free in {dir}"),
            "`docker system df` shows what takes the space; `docker image prune` removes unused images.",
        )
    } else {
        Diagnosis::new("disk", Verdict::Good, format!("{gib} GiB are free in {dir}"), "")
    })
}

#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}
