//! The network that instances share: made when missing, removed when no instance is left on it.

use std::collections::HashMap;

use bollard::models::{ContainerSummary, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;

use super::client::{Attempt, CallError, Client, Trace};
use super::{DockerEngine, container, label, prune};
use crate::engine::{EngineError, Pruned};

/// How often to look again after the network was made, or made twice, before that is an error.
const ENSURE_ATTEMPTS: u32 = 6;

/// What makes it one that lets no traffic through between instances.
const DRIVER: &str = "bridge";
const ISOLATED: (&str, &str) = ("com.docker.network.bridge.enable_icc", "false");

/// Why a network of ours goes.
const UNUSED: &str = "no instance is on it";
/// Why one of several goes.
const DOUBLED: &str = "it was made twice";

/// Which networks of a name there are.
pub(super) struct Present {
    /// The ids of ours, sorted.
    pub(super) ours: Vec<String>,
    /// Whether there is one that isn't ours.
    pub(super) foreign: bool,
}

/// Looks for the network.
pub(super) async fn look(client: &Client, name: &str) -> Result<Present, CallError> {
    // Docker's filter takes any name that contains this one.
    let filters = HashMap::from([("name", vec![name])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = client
        .call("listing networks", |docker| async move {
            docker.list_networks(Some(options)).await
        })
        .await?;
    let (ours, foreign): (Vec<Network>, Vec<Network>) = networks
        .into_iter()
        .filter(|network| network.name.as_deref() == Some(name))
        .partition(|network| is_ours(network, name));
    let mut ours: Vec<String> = ours.into_iter().filter_map(|network| network.id).collect();
    ours.sort_unstable();
    Ok(Present {
        ours,
        foreign: !foreign.is_empty(),
    })
}

/// One that has our label and says that it lets instances reach each other is none that we have made. Podman says nothing of
/// that: it knows no such option.
fn is_ours(network: &Network, name: &str) -> bool {
    fn word<'a>(words: Option<&'a HashMap<String, String>>, key: &str) -> Option<&'a str> {
        words?.get(key).map(String::as_str)
    }
    let (option, value) = ISOLATED;
    word(network.labels.as_ref(), label::NETWORK) == Some(name)
        && network.driver.as_deref().is_none_or(|driver| driver == DRIVER)
        && word(network.options.as_ref(), option).is_none_or(|said| said == value)
}

/// The id of the network, made if it isn't there.
///
/// Engines before 25 let two processes make it twice, and then start no container on either: of several, one is kept.
pub(super) async fn ensure(engine: &DockerEngine) -> Result<String, EngineError> {
    let (client, name) = (&engine.client, &engine.settings.network);
    for _ in 0..ENSURE_ATTEMPTS {
        let present = look(client, name).await?;
        if present.foreign {
            return Err(failed(foreign(name)));
        }
        match present.ours.as_slice() {
            [only] => return Ok(only.clone()),
            [] => match create(client, name).await {
                Ok(()) => {}
                // Engines from 25 on answer so to the later of two.
                Err(error) if error.status() == Some(409) => {}
                Err(error) => {
                    if matches!(error, CallError::Unknown(_)) {
                        let engine = engine.clone();
                        let tracker = engine.tracker.clone();
                        tracker.spawn(async move { tidy(&engine, Trace::Asked).await });
                    }
                    return Err(error.into());
                }
            },
            [first, others @ ..] => {
                // Everybody keeps the same one, unless containers run on another, which Docker then doesn't remove.
                let mut other_used = false;
                for id in others {
                    other_used |= !remove(client, id, DOUBLED).await;
                }
                if other_used {
                    remove(client, first, DOUBLED).await;
                }
            }
        }
    }
    Err(failed(format!(
        "the network {name} is removed or doubled as often as it is made"
    )))
}

fn failed(reason: String) -> EngineError {
    EngineError::Request {
        verb: "creating the network",
        reason,
    }
}

/// What to say of a network in our place.
pub(super) fn foreign(name: &str) -> String {
    format!("there is a network {name} that isn't ours: rename or remove it")
}

async fn create(client: &Client, name: &str) -> Result<(), CallError> {
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some(DRIVER.into()),
        options: Some(HashMap::from([(ISOLATED.0.into(), ISOLATED.1.into())])),
        labels: Some(HashMap::from([(label::NETWORK.into(), name.to_owned())])),
        ..NetworkCreateRequest::default()
    };
    client
        .change("creating the network", |docker| async move {
            docker.create_network(request).await
        })
        .await?;
    Ok(())
}

/// Removes our networks that no instance is on, running or not. If that fails, it is tried again for some time; and so
/// it is if one was [`Trace::Asked`] for, until there is one to remove.
pub(super) async fn tidy(engine: &DockerEngine, trace: Trace) {
    let (client, name) = (&engine.client, &engine.settings.network);
    client
        .persist(|| async {
            match unused(client, name, &[]).await {
                Ok(ids) => {
                    for id in &ids {
                        remove(client, id, UNUSED).await;
                    }
                    if trace == Trace::Made || !ids.is_empty() {
                        Attempt::Done
                    } else {
                        Attempt::NothingYet
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %EngineError::from(error), "can't tell whether the network is in use");
                    Attempt::Failed
                }
            }
        })
        .await;
}

/// Removes our networks that no instance is on, or will be when these have gone. `dry_run` only says which.
pub(super) async fn prune(engine: &DockerEngine, leaving: &[Pruned], dry_run: bool) -> Result<Vec<Pruned>, CallError> {
    let (client, name) = (&engine.client, &engine.settings.network);
    let mut pruned = Vec::new();
    for id in unused(client, name, leaving).await? {
        if dry_run || remove(client, &id, UNUSED).await {
            pruned.push(Pruned {
                kind: "network",
                name: name.clone(),
                reason: UNUSED.into(),
            });
        }
    }
    Ok(pruned)
}

/// The ids of our networks that no instance is on, those that are `leaving` aside.
async fn unused(client: &Client, name: &str, leaving: &[Pruned]) -> Result<Vec<String>, CallError> {
    let label = format!("{}={name}", label::NETWORK);
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let mut networks = client
        .call("listing networks", |docker| async move {
            docker.list_networks(Some(options)).await
        })
        .await?;
    networks.retain(|network| is_ours(network, name));
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let mut containers = container::list(client, None).await?;
    containers.retain(|container| !prune::is_leaving(container, leaving));
    Ok(networks
        .into_iter()
        .filter(|network| !containers.iter().any(|container| is_on(container, network)))
        .filter_map(|network| network.id)
        .collect())
}

/// Whether a container is on a network, or will be once it is started.
fn is_on(container: &ContainerSummary, network: &Network) -> bool {
    let mode = container
        .host_config
        .as_ref()
        .and_then(|config| config.network_mode.as_ref());
    let mut networks = container
        .network_settings
        .iter()
        .filter_map(|settings| settings.networks.as_ref())
        .flatten();
    mode.is_some() && (mode == network.id.as_ref() || mode == network.name.as_ref())
        || networks.any(|(name, endpoint)| {
            Some(name) == network.name.as_ref() || endpoint.network_id.is_some() && endpoint.network_id == network.id
        })
}

/// `false` if it is still there. The log has the `reason`.
async fn remove(client: &Client, id: &str, reason: &str) -> bool {
    let removed = client
        .change("removing the network", |docker| async move {
            docker.remove_network(id).await
        })
        .await;
    match removed {
        Ok(()) => {
            tracing::info!(id, reason, "removed the network");
            true
        }
        Err(error) if error.status() == Some(404) => true,
        // Somebody has just started a container on it: then it is in use.
        Err(error) if matches!(error.status(), Some(403 | 409)) => false,
        Err(error) => {
            tracing::warn!(id, error = %EngineError::from(error), "can't remove the network");
            false
        }
    }
}
