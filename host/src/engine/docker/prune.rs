//! Removing what is only there to be fast and is of no use any more.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerSummaryStateEnum, ImageSummary};
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};

use super::client::{CallError, Trace};
use super::{DockerEngine, container, image, label, network, remove, template};
use crate::engine::{EngineError, Pruned, TEMPLATE_AGE_MAX};

/// Everything of ours that is of no use any more.
pub(super) async fn prune(engine: &DockerEngine, dry_run: bool) -> Result<Vec<Pruned>, EngineError> {
    let mut pruned = templates(engine, dry_run).await?;
    pruned.extend(orphans(engine, dry_run).await?);
    if !dry_run {
        template::remove_stale(engine).await?;
        network::tidy(engine, Trace::Made).await;
    }
    Ok(pruned)
}

/// Waits for the removals that others have begun, and may have been killed in; whether there were any. What Docker has given up
/// half-way is begun anew.
pub(super) async fn see_removals_through(engine: &DockerEngine) -> Result<bool, EngineError> {
    let mut were_any = false;
    for container in container::list(&engine.client, None).await? {
        if container.state != Some(ContainerSummaryStateEnum::REMOVING) {
            continue;
        }
        were_any = true;
        let container_id = container.id.unwrap_or_default();
        if let Err(error) = remove::remove_container(&engine.client, &container_id).await {
            let error = EngineError::from(error);
            tracing::warn!(container_id, %error, "what is being removed stays for now");
        }
    }
    Ok(were_any)
}

/// Servers that processes which have ended had started ahead.
pub(super) async fn orphans(engine: &DockerEngine, dry_run: bool) -> Result<Vec<Pruned>, EngineError> {
    let containers = container::list(&engine.client, None).await?;
    let orphans = engine.orphans(containers).await;
    if !dry_run && !orphans.is_empty() {
        engine.sign().await;
    }
    let mut pruned = Vec::new();
    for (container_id, name) in orphans {
        if !dry_run {
            if let Err(error) = remove::remove_container(&engine.client, &container_id).await {
                let error = EngineError::from(error);
                tracing::warn!(name, %error, "what a process that has ended had started ahead stays for now");
                continue;
            }
            tracing::info!(name, "removed what a process that has ended had started ahead");
        }
        pruned.push(Pruned {
            kind: "server",
            name,
            reason: "it was started ahead by a process that has ended".into(),
        });
    }
    Ok(pruned)
}

/// Templates that are old. One that containers run on stays until they are gone.
pub(super) async fn templates(engine: &DockerEngine, dry_run: bool) -> Result<Vec<Pruned>, EngineError> {
    let mut pruned = Vec::new();
    for summary in all(engine).await? {
        let Some(reason) = reason(engine, &summary).await? else {
            continue;
        };
        if dry_run || remove_image(engine, &summary.id).await? {
            let name = summary.repo_tags.into_iter().next().unwrap_or(summary.id);
            pruned.push(Pruned {
                kind: "template",
                name,
                reason,
            });
        }
    }
    Ok(pruned)
}

async fn all(engine: &DockerEngine) -> Result<Vec<ImageSummary>, CallError> {
    let filters = HashMap::from([("label", vec![label::TEMPLATE])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    engine
        .client
        .call("listing templates", |docker| async move {
            docker.list_images(Some(options)).await
        })
        .await
}

/// Why a template is old; `None` if it isn't, or isn't one: what a user has made of an instance with `docker commit` has
/// inherited its labels, and the name of a template is what it hasn't.
async fn reason(engine: &DockerEngine, summary: &ImageSummary) -> Result<Option<String>, EngineError> {
    let key = summary
        .labels
        .get(label::TEMPLATE)
        .map(String::as_str)
        .unwrap_or_default();
    if summary.repo_tags != [template::reference(key)] || summary.labels.contains_key(label::ID) {
        return Ok(None);
    }
    let created = u64::try_from(summary.created).unwrap_or_default();
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH + Duration::from_secs(created))
        .unwrap_or_default();
    if age > TEMPLATE_AGE_MAX {
        return Ok(Some(format!("it is {} days old", age.as_secs() / 86_400)));
    }
    let Some(source) = summary.labels.get(label::TEMPLATE_OF) else {
        return Ok(Some("another version of this program made it".into()));
    };
    match image::inspect_reference(&engine.client, source).await {
        Ok(inspected) => {
            let changed = template::key(&inspected.into()) != key;
            Ok(changed.then(|| format!("the image {source} has changed since")))
        }
        Err(error) if error.status() == Some(404) => Ok(Some(format!("the image {source} is gone"))),
        Err(error) => Err(error.into()),
    }
}

/// `false` if containers run on it, or somebody else was faster.
async fn remove_image(engine: &DockerEngine, id: &str) -> Result<bool, CallError> {
    let options = RemoveImageOptionsBuilder::new().build();
    let removed = engine
        .client
        .change("removing a template", |docker| async move {
            docker.remove_image(id, Some(options), None).await
        })
        .await;
    match removed {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(false),
        Err(error) => Err(error),
    }
}
