//! Making an instance of a container that was started ahead.

use bollard::query_parameters::RenameContainerOptionsBuilder;

use super::record::{self, Record};
use super::{DockerEngine, container, image};
use crate::engine::provision::Note;
use crate::engine::{EngineError, Waiting, answers, outdated};
use crate::instance::{Created, InstanceSpec, Owner};

/// Gives the server its names and password, and the container the name that makes it an instance. Only its owner does so:
/// nobody else has the session, so no two processes ever take the same one.
pub(super) async fn assign(
    engine: &DockerEngine,
    waiting: Waiting,
    spec: &InstanceSpec,
    owner: &Owner,
) -> Result<Created, EngineError> {
    let found = waiting.becomes(spec, owner);
    let id = waiting.id();
    let record = Record::of(&found);
    let text = record.to_json()?;
    let note = Note {
        path: record::PATH,
        text: &text,
    };
    let deadline = engine.settings.request_timeout;
    // A server that is refused goes in any case: that it has a name by then does no harm.
    let (facts, assigned) = tokio::join!(
        image::facts(&engine.client, &spec.image),
        waiting.session.assign(spec, Some(note), deadline)
    );
    if facts?.id != waiting.origin {
        return Err(outdated());
    }
    assigned?;
    engine.records().insert(id, record);
    let container_id = &found.instance.container_id;
    let options = RenameContainerOptionsBuilder::new().name(&container::name(id)).build();
    let named = async {
        let renamed = engine.client.change("naming the container", |docker| async move {
            docker.rename_container(container_id, options).await
        });
        Ok(renamed.await?)
    };
    tokio::try_join!(named, waiting.session.leave(spec, deadline), answers(&found, deadline))?;
    Ok(Created {
        found,
        warnings: waiting.warnings,
        answers: true,
    })
}
