//! Images: looking at them, and pulling those that aren't there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::client::{CallError, Client};
use super::container::ImageFacts;
use crate::engine::EngineError;
use crate::instance::{Image, Progress, ProgressSink};

/// The least time between two reports of a pull's progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Whether the image is there.
pub(super) async fn is_here(client: &Client, image: &Image) -> Result<bool, EngineError> {
    match inspect(client, image).await {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(404) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What creating a container needs to know of an image that is there.
pub(super) async fn facts(client: &Client, image: &Image) -> Result<ImageFacts, EngineError> {
    match inspect(client, image).await {
        Ok(inspected) => Ok(inspected.into()),
        Err(CallError::Refused {
            status: 404, message, ..
        }) => Err(EngineError::NoSuchImage {
            image: image.to_string(),
            reason: message,
        }),
        Err(error) => Err(error.into()),
    }
}

async fn inspect(client: &Client, image: &Image) -> Result<ImageInspect, CallError> {
    inspect_reference(client, &image.to_string()).await
}

/// What Docker knows of an image.
pub(super) async fn inspect_reference(client: &Client, reference: &str) -> Result<ImageInspect, CallError> {
    client
        .call("inspecting the image", |docker| async move {
            docker.inspect_image(reference).await
        })
        .await
}

/// What the image is; pulls it if it isn't there. Dropping the returned future closes the connection, which stops the pull.
pub(super) async fn prepare(
    client: &Client,
    image: &Image,
    deadline: Duration,
    progress: &ProgressSink,
) -> Result<ImageFacts, EngineError> {
    match facts(client, image).await {
        Err(EngineError::NoSuchImage { .. }) => {}
        known => return known,
    }
    match tokio::time::timeout(deadline, pull(client, image, progress)).await {
        Ok(pulled) => pulled?,
        Err(_) => {
            return Err(EngineError::TimedOut {
                verb: "pulling the image",
                after: deadline,
            });
        }
    }
    // A stream that was cut short ends like one that is complete.
    facts(client, image).await.map_err(|error| match error {
        EngineError::NoSuchImage { image, .. } => EngineError::Pull {
            image,
            reason: "the pull ended without it".into(),
        },
        error => error,
    })
}

async fn pull(client: &Client, image: &Image, progress: &ProgressSink) -> Result<(), EngineError> {
    let connected = client.connected()?;
    let options = CreateImageOptionsBuilder::new()
        .from_image(image.repository())
        .tag(image.version())
        .build();
    let mut stream = std::pin::pin!(connected.docker.create_image(Some(options), None, None));
    let mut report = Report::new(image, progress);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => report.take(&event),
            Err(bollard::errors::Error::DockerStreamError { error }) => return Err(refused(image, error)),
            Err(error) => {
                return Err(match client.explain("pulling the image", &connected.endpoint, error) {
                    CallError::Refused { message, .. } => refused(image, message),
                    error => error.into(),
                });
            }
        }
    }
    report.finish();
    Ok(())
}

/// Tells an image that doesn't exist from one that can't be had: Docker answers 404 to both.
fn refused(image: &Image, reason: String) -> EngineError {
    let lower = reason.to_lowercase();
    let unknown = ["manifest unknown", "name unknown", "not found"]
        .iter()
        .any(|words| lower.contains(words));
    let image = image.to_string();
    if unknown && !lower.contains("denied") {
        EngineError::NoSuchImage { image, reason }
    } else {
        EngineError::Pull { image, reason }
    }
}

/// Adds up a pull's layers.
struct Report<'a> {
    image: String,
    progress: &'a ProgressSink,
    /// Bytes downloaded and to download, by layer.
    layers: HashMap<String, (u64, u64)>,
    told_at: Instant,
    told: (u64, u64),
}

impl<'a> Report<'a> {
    fn new(image: &Image, progress: &'a ProgressSink) -> Self {
        let report = Self {
            image: image.to_string(),
            progress,
            layers: HashMap::new(),
            told_at: Instant::now(),
            told: (0, 0),
        };
        report.tell();
        report
    }

    fn take(&mut self, event: &CreateImageInfo) {
        let (Some(layer), Some(status)) = (&event.id, event.status.as_deref()) else {
            return;
        };
        match status {
            "Downloading" => {
                let detail = event.progress_detail.clone().unwrap_or_default();
                let bytes = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
                let current = bytes(detail.current);
                let total = bytes(detail.total).max(current);
                let known = self.layers.entry(layer.clone()).or_default();
                // A download that is begun again counts from nothing again.
                *known = (known.0.max(current), known.1.max(total));
            }
            "Download complete" | "Pull complete" => {
                if let Some(known) = self.layers.get_mut(layer) {
                    known.0 = known.1;
                }
            }
            _ => return,
        }
        if self.told_at.elapsed() >= REPORT_INTERVAL {
            self.tell_news();
        }
    }

    fn finish(&mut self) {
        self.tell_news();
    }

    fn tell_news(&mut self) {
        let sum = self.layers.values().fold((0, 0), |sum: (u64, u64), layer| {
            (sum.0.saturating_add(layer.0), sum.1.saturating_add(layer.1))
        });
        if sum != self.told {
            self.told = sum;
            self.told_at = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        self.progress.tell(Progress::Pulling {
            image: self.image.clone(),
            done_bytes: self.told.0,
            total_bytes: self.told.1,
        });
    }
}
