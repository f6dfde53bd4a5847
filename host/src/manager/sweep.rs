//! Removing instances that are over: their time has come, or the process that they belong to has ended.

use std::sync::Arc;
use std::time::Duration;

use super::{InstanceError, InstanceManager, remove_stubbornly};
use crate::engine::Pruned;
use crate::instance::{Instance, InstanceId, Lifetime};
use crate::metrics::METRICS;

/// How often it is looked what is over, at least: other processes make and extend instances and tell nobody, and a machine
/// that slept has missed its timers.
const LOOK_PAUSE: Duration = Duration::from_secs(15);
/// How often at most: an end is a matter of seconds.
const LOOK_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Why an instance is removed that nobody has dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Expired,
    Orphan,
}

impl Over {
    fn reason(self) -> &'static str {
        match self {
            Self::Expired => "its time to live has ended",
            Self::Orphan => "the process that it belongs to has ended",
        }
    }

    /// As the metrics have it.
    fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Orphan => "orphan",
        }
    }
}

/// How long an instance has left if nobody drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// So long, by its engine's clock.
    Time(Duration),
    /// As long as its owner's process lives.
    Session,
    /// Nothing: its owner's process has ended, and whoever comes next removes it.
    Orphan,
    /// As long as anybody likes.
    Unlimited,
}

impl InstanceManager {
    /// Removes the instances that are over. `dry_run` only says which.
    ///
    /// An instance belongs to a process only where this machine can tell whether that lives: those of other machines on the
    /// same daemon go by their time alone.
    ///
    /// # Errors
    /// If the engine can't tell. What can't be removed is logged, and stays for the next time.
    pub async fn sweep(&self, dry_run: bool) -> Result<Vec<Pruned>, InstanceError> {
        let mut swept = Vec::new();
        for instance in self.engine.list().await? {
            let id = instance.id;
            if self.why_over(&instance).await?.is_none() {
                continue;
            }
            // Looked at again, right before: somebody may have extended it since.
            let Some(found) = self.engine.get(id).await? else {
                continue;
            };
            let Some(over) = self.why_over(&found.instance).await? else {
                continue;
            };
            let reason = over.reason();
            if !dry_run {
                match self.engine.remove(id).await {
                    Ok(true) => {
                        METRICS.reaped(over.word());
                        tracing::info!(%id, reason, "removed an instance that was over");
                    }
                    // Somebody else was faster.
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::warn!(%id, reason, %error, "an instance that is over stays for now");
                        continue;
                    }
                }
            }
            swept.push(Pruned {
                kind: "instance",
                name: id.to_string(),
                reason: reason.to_owned(),
            });
        }
        Ok(swept)
    }

    /// Sweeps whenever something may be over, until the future is dropped.
    pub async fn keep_sweeping(&self) {
        loop {
            if let Err(error) = self.sweep(false).await {
                tracing::debug!(error = ?error.to_string(), "it can't be told which instances are over");
            }
            tokio::time::sleep(self.until_next_end().await).await;
        }
    }

    /// How long to wait for the next look.
    async fn until_next_end(&self) -> Duration {
        let mut pause = LOOK_PAUSE;
        for instance in self.engine.list().await.unwrap_or_default() {
            if let Lifetime::Until(end) = instance.lifetime
                && let Ok(now) = self.engine.now(instance.engine).await
            {
                pause = pause.min(end.duration_since(now).unwrap_or_default());
            }
        }
        pause.max(LOOK_PAUSE_MIN)
    }

    /// Whether an instance's time has come, by its engine's clock. It counts as gone then, whether it is removed yet or not.
    pub(super) async fn is_over(&self, instance: &Instance) -> Result<bool, InstanceError> {
        Ok(match instance.lifetime {
            Lifetime::Until(_) => instance.lifetime.is_over(self.engine.now(instance.engine).await?),
            Lifetime::Session | Lifetime::Unlimited => false,
        })
    }

    /// Whether the process that an instance belongs to has ended.
    pub async fn is_orphan(&self, instance: &Instance) -> bool {
        let (Lifetime::Session, Some(owner)) = (instance.lifetime, &instance.owner) else {
            return false;
        };
        let (owners, process) = (self.owners.clone(), owner.process.clone());
        // One that can't be judged is none.
        tokio::task::spawn_blocking(move || owners.has_ended(&process))
            .await
            .unwrap_or(false)
    }

    async fn why_over(&self, instance: &Instance) -> Result<Option<Over>, InstanceError> {
        if self.is_over(instance).await? {
            return Ok(Some(Over::Expired));
        }
        Ok(self.is_orphan(instance).await.then_some(Over::Orphan))
    }

    /// How long an instance has left.
    ///
    /// # Errors
    /// If the engine doesn't tell the time.
    pub async fn left(&self, instance: &Instance) -> Result<Left, InstanceError> {
        Ok(match instance.lifetime {
            Lifetime::Until(end) => {
                let now = self.engine.now(instance.engine).await?;
                Left::Time(end.duration_since(now).unwrap_or_default())
            }
            Lifetime::Session if self.is_orphan(instance).await => Left::Orphan,
            Lifetime::Session => Left::Session,
            Lifetime::Unlimited => Left::Unlimited,
        })
    }

    /// Removes one of this process's at its end, unless it has been given more time.
    pub(super) async fn end_session_of(&self, id: InstanceId) {
        match self.engine.get(id).await {
            Ok(Some(found)) if found.instance.lifetime != Lifetime::Session => {}
            Ok(None) => {}
            // Where that can't be told, it is as it was.
            Ok(Some(_)) | Err(_) => remove_stubbornly(Arc::clone(&self.engine), id, "its session has ended").await,
        }
    }
}
