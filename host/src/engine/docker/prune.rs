//! Removing what is only there to be fast and is of no use any more.

use std::collections::{HashMap, HashSet};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, ImageSummary};
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};

use super::client::CallError;
use super::{DockerEngine, age, container, image, label, network, remove, template};
use crate::engine::{Engine as _, EngineError, Pruned, TEMPLATE_AGE_MAX};
use crate::instance::{EngineKind, Image};
use crate::metrics::METRICS;

/// What some engines call an image that has no name.
const NAMELESS: &str = "<none>:<none>";

/// Removes everything of ours that is of no use any more, and adds it to `pruned`. What uses something goes before it.
pub(super) async fn prune(engine: &DockerEngine, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
    let containers = container::list(&engine.client, None).await?;
    pruned.extend(orphans(engine, containers, dry_run).await);
    pruned.extend(template::remove_stale(engine, dry_run).await?);
    templates(engine, dry_run, pruned).await?;
    let networks = network::prune(engine, pruned, dry_run).await?;
    pruned.extend(networks);
    Ok(())
}

/// Whether a container is among what was pruned, or would be.
pub(super) fn is_leaving(container: &ContainerSummary, pruned: &[Pruned]) -> bool {
    let id = container.labels.as_ref().and_then(|labels| labels.get(label::ID));
    let names = container.names.iter().flatten();
    let names: Vec<&str> = names.map(|name| name.trim_start_matches('/')).collect();
    pruned.iter().any(|gone| match gone.kind {
        "instance" => id == Some(&gone.name),
        _ => names.contains(&gone.name.as_str()),
    })
}

/// Waits for the removals among these that others have begun, and may have been killed in; whether there are any. What Docker
/// has given up half-way is begun anew.
pub(super) async fn see_removals_through(engine: &DockerEngine, containers: &[ContainerSummary]) -> bool {
    let mut were_any = false;
    for container in containers {
        let is_ours = container.labels.as_ref().and_then(container::id).is_some();
        if !is_ours || container.state != Some(ContainerSummaryStateEnum::REMOVING) {
            continue;
        }
        were_any = true;
        let container_id = container.id.as_deref().unwrap_or_default();
        match remove::remove_container(&engine.client, container_id).await {
            Ok(_) => tracing::info!(container_id, "what was being removed has gone"),
            Err(error) => {
                let error = EngineError::from(error);
                tracing::warn!(container_id, %error, "what is being removed stays for now");
            }
        }
    }
    were_any
}

/// Servers among these that were started ahead, and that nobody will take any more.
pub(super) async fn orphans(engine: &DockerEngine, containers: Vec<ContainerSummary>, dry_run: bool) -> Vec<Pruned> {
    let orphans = engine.orphans(containers).await;
    if !dry_run && !orphans.is_empty() {
        engine.sign().await;
    }
    let mut pruned = Vec::new();
    for (name, reason) in orphans {
        if !dry_run {
            // By name: one that has become an instance since has another, and isn't found.
            match remove::remove_container(&engine.client, &name).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    let error = EngineError::from(error);
                    tracing::warn!(name, reason, %error, "what was started ahead stays for now");
                    continue;
                }
            }
            METRICS.reaped("server", "orphan");
            tracing::info!(name, reason, "removed what was started ahead");
        }
        pruned.push(Pruned {
            kind: "server",
            name,
            reason: reason.into(),
        });
    }
    pruned
}

/// Templates that are old. One that containers run on stays until they are gone, those aside that were pruned.
pub(super) async fn templates(
    engine: &DockerEngine,
    dry_run: bool,
    pruned: &mut Vec<Pruned>,
) -> Result<(), EngineError> {
    let used = if dry_run {
        used(engine, pruned).await?
    } else {
        HashSet::new()
    };
    for summary in all(engine, false).await? {
        let Some(old) = old(engine, &summary).await? else {
            continue;
        };
        let goes = if dry_run {
            !used.contains(&summary.id)
        } else {
            remove_image(engine, &summary.id, old.is_last).await?
        };
        if !goes {
            continue;
        }
        let name = summary.repo_tags.into_iter().next().unwrap_or(summary.id);
        if !dry_run {
            tracing::info!(name, reason = old.reason, "removed a template");
        }
        pruned.push(Pruned {
            kind: "template",
            name,
            reason: old.reason,
        });
    }
    Ok(())
}

/// The ids of the images that containers run on which stay. What runs on a template has inherited its label.
async fn used(engine: &DockerEngine, pruned: &[Pruned]) -> Result<HashSet<String>, CallError> {
    let mut containers = template::containers(engine).await?;
    containers.retain(|container| !is_leaving(container, pruned));
    Ok(containers
        .into_iter()
        .filter_map(|container| container.image_id)
        .collect())
}

/// Removes the templates that have lost their name to another: where a maker was killed, Docker went on with what it had been
/// asked for, and the next maker asked for the same.
pub(super) async fn nameless_templates(engine: &DockerEngine) -> Result<(), EngineError> {
    for summary in all(engine, true).await? {
        if let Some(old) = old(engine, &summary).await?
            && remove_image(engine, &summary.id, old.is_last).await?
        {
            METRICS.reaped("template", "orphan");
            tracing::info!(id = summary.id, reason = old.reason, "removed a template");
        }
    }
    Ok(())
}

async fn all(engine: &DockerEngine, only_nameless: bool) -> Result<Vec<ImageSummary>, CallError> {
    let mut filters = HashMap::from([("label", vec![label::TEMPLATE])]);
    if only_nameless {
        filters.insert("dangling", vec!["true"]);
    }
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    engine
        .client
        .call("listing templates", |docker| async move {
            docker.list_images(Some(options)).await
        })
        .await
}

/// Why a template is of no use any more.
struct Old {
    reason: String,
    /// Whether somebody has removed the image that it was made from, which Docker has kept for it since.
    is_last: bool,
}

impl Old {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            is_last: false,
        }
    }
}

/// Why a template is old; `None` if it isn't, or isn't one: what a user has made of an instance with `docker commit` has
/// inherited its labels, and the name of a template is what it hasn't.
async fn old(engine: &DockerEngine, summary: &ImageSummary) -> Result<Option<Old>, EngineError> {
    let key = summary
        .labels
        .get(label::TEMPLATE)
        .map(String::as_str)
        .unwrap_or_default();
    if summary.labels.contains_key(label::ID) {
        return Ok(None);
    }
    if summary.repo_tags.iter().all(|name| name == NAMELESS) {
        // First: a maker names it before its container goes.
        let is_being_made = engine.inspect(&template::name(key)).await?.is_some();
        let was_named = !is_being_made && is_nameless_template(engine, summary).await?;
        return Ok(was_named.then(|| Old::because("another one has its name")));
    }
    if summary.repo_tags != [template::reference(key)] {
        return Ok(None);
    }
    let Some(source) = summary.labels.get(label::TEMPLATE_OF) else {
        return Ok(Some(Old::because("another version of this program made it")));
    };
    if let Some(old) = outdated(engine, key, source).await? {
        return Ok(Some(old));
    }
    // Where Docker doesn't tell the time, none is too old.
    let now = engine.now(EngineKind::Docker).await.ok();
    let age = now.and_then(|now| age(summary.created, now));
    Ok(age
        .filter(|age| *age > TEMPLATE_AGE_MAX)
        .map(|age| Old::because(format!("it is {} days old", age.as_secs() / 86_400))))
}

/// Why what a template was made from makes another one now; `None` if it doesn't, or that can't be told.
async fn outdated(engine: &DockerEngine, key: &str, source: &str) -> Result<Option<Old>, EngineError> {
    // Anybody may have written it, and it becomes a part of a request's path.
    let names_image = source
        .rsplit_once(':')
        .is_some_and(|(repository, tag)| Image::new(repository, tag).is_ok());
    if !names_image {
        tracing::debug!(key, source, "what a template says that it was made from is no image");
        return Ok(None);
    }
    match image::inspect_reference(&engine.client, source).await {
        Ok(inspected) => {
            let changed = template::key(&inspected.into()) != key;
            Ok(changed.then(|| Old::because(format!("the image {source} has changed since"))))
        }
        Err(error) if error.status() == Some(404) => Ok(Some(Old {
            reason: format!("the image {source} is gone"),
            is_last: true,
        })),
        // What Docker can't tell of one image keeps no other from going.
        Err(error @ CallError::Refused { .. }) => {
            let error = EngineError::from(error);
            tracing::debug!(key, source, %error, "nobody knows what a template was made from");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an image without a name was committed as a template, and not built on one. One that is just being committed has its
/// maker's container beside it.
async fn is_nameless_template(engine: &DockerEngine, summary: &ImageSummary) -> Result<bool, EngineError> {
    match image::inspect_reference(&engine.client, &summary.id).await {
        Ok(inspected) => {
            let is_templates = inspected.comment.as_deref() == Some(template::COMMENT);
            Ok(is_templates && inspected.repo_tags.unwrap_or_default().is_empty())
        }
        // It has gone meanwhile.
        Err(CallError::Refused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `false` if containers run on it, somebody else was faster, or Docker can't: the others may go all the same.
///
/// Docker can remove what the image was made from along, if that has no name and nothing else is made from it. Where its
/// name was removed, that is what its owner has asked for, and what would be left for ever; where it was given to another
/// image, its owner may still want it.
async fn remove_image(engine: &DockerEngine, id: &str, with_nameless_parents: bool) -> Result<bool, CallError> {
    let options = RemoveImageOptionsBuilder::new().noprune(!with_nameless_parents).build();
    let removed = engine
        .client
        .change("removing a template", |docker| async move {
            docker.remove_image(id, Some(options), None).await
        })
        .await;
    match removed {
        Ok(_) => Ok(true),
        Err(error @ CallError::Refused { .. }) => {
            tracing::debug!(id, error = %EngineError::from(error), "a template stays for now");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
