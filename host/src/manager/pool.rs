//! Servers that were started before anybody asked, so that a create finds one ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{InstanceError, Unkept};
use crate::engine::{Engine, EngineError, Waiting};
use crate::instance::{DatabaseName, Defaults, Image, InstanceId, InstanceSpec, InvalidValue, Password};
use crate::ports::PortAllocator;

/// How many images are kept ready at most: those that were asked for last.
const IMAGES_MAX: usize = 4;
/// How often it is looked whether the machine is short of memory: nothing tells.
const MEMORY_LOOK: Duration = Duration::from_secs(15);

/// Keeps servers ready in the background.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Arc<dyn Engine>,
    ports: PortAllocator,
    tracker: TaskTracker,
    /// What every server is like that waits, its image aside.
    defaults: Defaults,
    /// How many are to wait for each image.
    size: usize,
    is_short_of_memory: fn() -> bool,
    // A std mutex: held for a few instructions, never across a wait.
    state: Mutex<State>,
    /// Told whenever there may be something to do.
    changed: Notify,
    /// How many creates are under way.
    creating: watch::Sender<usize>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// What is to be ready, the last that was asked for first.
    wanted: Vec<Wanted>,
    ready: Vec<Ready>,
}

/// What servers are to be like that wait.
#[derive(Debug, Clone)]
struct Wanted {
    image: Image,
    /// The database that was asked for last: whoever asks for one once does so again.
    database: DatabaseName,
}

/// A server that waits, removed when dropped.
#[derive(Debug)]
pub(super) struct Ready {
    image: Image,
    pub(super) waiting: Waiting,
    pub(super) unkept: Unkept,
}

/// Keeps the pool from starting servers for as long as a create is under way.
#[derive(Debug)]
pub(super) struct Creating(Arc<Inner>);

impl Drop for Creating {
    fn drop(&mut self) {
        self.0.creating.send_modify(|creating| *creating -= 1);
    }
}

/// What to do next.
enum Next {
    Start(Wanted),
    Wait,
    Close,
}

impl Pool {
    /// Starts nothing before it is opened and told which image is wanted.
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        ports: PortAllocator,
        defaults: Defaults,
        size: usize,
        is_short_of_memory: fn() -> bool,
        tracker: TaskTracker,
    ) -> Self {
        Self(Arc::new(Inner {
            engine,
            ports,
            tracker,
            defaults,
            size,
            is_short_of_memory,
            state: Mutex::default(),
            changed: Notify::new(),
            creating: watch::Sender::new(0),
            closed: CancellationToken::new(),
        }))
    }

    /// Fills the pool in the background from now on.
    pub(super) fn open(&self) {
        let keeper = self.clone();
        if self.0.size > 0 {
            self.0.tracker.spawn(async move { keeper.keep_full().await });
        }
    }

    /// To be held while a create is under way.
    pub(super) fn creating(&self) -> Creating {
        self.0.creating.send_modify(|creating| *creating += 1);
        Creating(Arc::clone(&self.0))
    }

    /// Has servers of this image waiting from now on, for whoever asks for such a database.
    pub(super) fn want(&self, image: &Image, database: &DatabaseName) {
        let mut state = self.state();
        state.wanted.retain(|wanted| wanted.image != *image);
        let wanted = Wanted {
            image: image.clone(),
            database: database.clone(),
        };
        state.wanted.insert(0, wanted);
        state.wanted.truncate(IMAGES_MAX);
        drop(state);
        self.0.changed.notify_one();
    }

    /// A server that fits, if one waits. Nobody else gets it.
    pub(super) fn take(&self, spec: &InstanceSpec) -> Option<Ready> {
        let Defaults { limits, durable, .. } = self.0.defaults;
        if (spec.limits, spec.durable) != (limits, durable) {
            return None;
        }
        let mut state = self.state();
        let place = state
            .ready
            .iter()
            .position(|ready| ready.image == spec.image && !ready.waiting.is_lost())?;
        Some(state.ready.swap_remove(place))
    }

    /// Gives up a server that waits, for its port; `false` if none does.
    pub(super) async fn give_up_one(&self) -> bool {
        let given_up = self.state().ready.pop();
        match given_up {
            Some(mut ready) => {
                ready.unkept.remove().await;
                true
            }
            None => false,
        }
    }

    /// Removes every server that waits, in the background, and starts no more.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
        let waiting = std::mem::take(&mut self.state().ready);
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts servers one at a time, with no create under way, until the pool is closed.
    async fn keep_full(&self) {
        let mut creating = self.0.creating.subscribe();
        loop {
            // The sender lives as long as this pool.
            let _ = creating.wait_for(|creating| *creating == 0).await;
            match self.next() {
                Next::Close => return,
                Next::Start(wanted) => self.start(&wanted).await,
                Next::Wait => self.until_changed().await,
            }
        }
    }

    fn next(&self) -> Next {
        if self.0.closed.is_cancelled() {
            return Next::Close;
        }
        let is_short = (self.0.is_short_of_memory)();
        let mut state = self.state();
        let wanted = state.wanted.clone();
        let is_wanted = |ready: &Ready| wanted.iter().any(|wanted| wanted.image == ready.image);
        let (keep, unwanted) = std::mem::take(&mut state.ready)
            .into_iter()
            .partition(|ready| !is_short && !ready.waiting.is_lost() && is_wanted(ready));
        state.ready = keep;
        let missing = wanted.into_iter().find(|wanted| {
            let ready = state.ready.iter().filter(|ready| ready.image == wanted.image);
            ready.count() < self.0.size
        });
        drop(state);
        let unwanted: Vec<Ready> = unwanted;
        if is_short && !unwanted.is_empty() {
            tracing::info!(
                servers = unwanted.len(),
                "the machine is short of memory: none waits any more"
            );
        }
        drop(unwanted);
        match missing {
            Some(wanted) if !is_short => Next::Start(wanted),
            _ => Next::Wait,
        }
    }

    async fn until_changed(&self) {
        let mut lost: Vec<_> = self
            .state()
            .ready
            .iter()
            .map(|ready| Box::pin(ready.waiting.lost()))
            .collect();
        // `select_all` takes no empty list.
        lost.push(Box::pin(self.0.closed.clone().cancelled_owned()));
        tokio::select! {
            _ = select_all(lost) => {}
            () = self.0.changed.notified() => {}
            () = tokio::time::sleep(MEMORY_LOOK) => {}
        }
    }

    async fn start(&self, wanted: &Wanted) {
        let image = &wanted.image;
        let started = tokio::select! {
            () = self.0.closed.cancelled() => return,
            started = self.start_one(wanted).instrument(tracing::debug_span!("start ahead", %image)) => started,
        };
        let mut state = self.state();
        match started {
            Ok(Some(ready)) if !self.0.closed.is_cancelled() => {
                tracing::debug!(id = %ready.waiting.id(), %image, "waits");
                state.ready.push(ready);
            }
            // Dropped, it is removed.
            Ok(Some(_)) => {}
            // Until somebody asks for it again.
            Ok(None) => state.wanted.retain(|wanted| wanted.image != *image),
            Err(error) => {
                state.wanted.retain(|wanted| wanted.image != *image);
                drop(state);
                tracing::debug!(%image, error = ?error.to_string(), "none could be started ahead");
            }
        }
    }

    async fn start_one(&self, wanted: &Wanted) -> Result<Option<Ready>, InstanceError> {
        let spec = self.spec(wanted)?;
        let mut candidates = self.0.ports.candidates(&mut rand::rng());
        loop {
            let lease = candidates.next_lease()?;
            let id = InstanceId::random();
            match self.0.engine.start_ahead(id, &spec, lease.port()).await {
                Err(EngineError::PortTaken(port)) => tracing::debug!(%port, "taken, trying another"),
                Err(error) => return Err(error.into()),
                Ok(waiting) => {
                    return Ok(waiting.map(|waiting| Ready {
                        image: wanted.image.clone(),
                        waiting,
                        unkept: Unkept::new(&self.0.engine, &self.0.tracker, id),
                    }));
                }
            }
        }
    }

    /// What a server is started from; the superuser's name and password are its own until it has others, and go nowhere.
    fn spec(&self, wanted: &Wanted) -> Result<InstanceSpec, EngineError> {
        let wrong = |reason: InvalidValue| EngineError::Request {
            verb: "starting a server ahead",
            reason: reason.to_string(),
        };
        Ok(InstanceSpec {
            image: wanted.image.clone(),
            database: wanted.database.clone(),
            username: "postgres".parse().map_err(wrong)?,
            password: Password::new("none").map_err(wrong)?,
            limits: self.0.defaults.limits,
            durable: self.0.defaults.durable,
        })
    }
}
