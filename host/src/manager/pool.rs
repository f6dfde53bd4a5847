//! Servers that were started before anybody asked, so that a create finds one ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{InstanceError, Unkept};
use crate::engine::{Engine, EngineError, Waiting};
use crate::instance::{DatabaseName, Defaults, Image, InstanceId, InstanceSpec, InvalidValue, Owner, Password};
use crate::metrics::{METRICS, PoolWaiting};
use crate::ports::PortAllocator;

/// How many images are kept ready at most: those that were asked for last.
const IMAGES_MAX: usize = 4;
/// How often it is looked whether the machine is short of memory: nothing tells.
const MEMORY_LOOK: Duration = Duration::from_secs(15);
/// How long one waits before another takes its place: long before others take it for one that nobody has any more. A
/// machine that slept is late.
const AGE_MAX: Duration = Duration::from_hours(6);
/// One that is lost sooner than this after it was ready counts as short-lived.
const SHORT_LIFE: Duration = Duration::from_secs(30);
/// After how many short lives in a row an image is given up, until somebody asks for it again.
const SHORT_LIVES_MAX: u32 = 3;

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
    /// How many in a row were lost soon after they were ready.
    short_lives: u32,
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
    since: Instant,
    pub(super) waiting: Waiting,
    pub(super) unkept: Unkept,
    /// Counts it for as long as it waits.
    pub(super) counted: PoolWaiting,
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

    /// Whether no server is ever to wait.
    pub(super) fn is_off(&self) -> bool {
        self.0.size == 0
    }

    /// Fills the pool in the background from now on, with servers of this owner.
    pub(super) fn open(&self, owner: Owner) {
        let keeper = self.clone();
        if !self.is_off() {
            self.0.tracker.spawn(async move { keeper.keep_full(&owner).await });
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
        state.short_lives = 0;
        let place = state
            .ready
            .iter()
            .position(|ready| ready.image == spec.image && !ready.waiting.is_lost())?;
        METRICS.pool_taken();
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
    async fn keep_full(&self, owner: &Owner) {
        let mut creating = self.0.creating.subscribe();
        loop {
            // The sender lives as long as this pool.
            let _ = creating.wait_for(|creating| *creating == 0).await;
            match self.next() {
                Next::Close => return,
                Next::Start(wanted) => self.start(&wanted, owner).await,
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
        let (keep, unwanted) = std::mem::take(&mut state.ready).into_iter().partition(|ready| {
            let is_good = !ready.waiting.is_lost() && ready.since.elapsed() < AGE_MAX;
            !is_short && is_good && is_wanted(ready)
        });
        state.ready = keep;
        let unwanted: Vec<Ready> = unwanted;
        for lost in unwanted
            .iter()
            .filter(|ready| ready.waiting.is_lost() && ready.since.elapsed() < SHORT_LIFE)
        {
            state.short_lives += 1;
            if state.short_lives >= SHORT_LIVES_MAX {
                tracing::warn!(image = %lost.image, "servers that are started ahead end at once: none is any more");
                state.short_lives = 0;
                state.wanted.retain(|wanted| wanted.image != lost.image);
            }
        }
        let wanted = state.wanted.clone();
        let missing = wanted.into_iter().find(|wanted| {
            let ready = state.ready.iter().filter(|ready| ready.image == wanted.image);
            ready.count() < self.0.size
        });
        drop(state);
        if is_short && !unwanted.is_empty() {
            tracing::info!("the machine is short of memory: no server waits any more");
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

    async fn start(&self, wanted: &Wanted, owner: &Owner) {
        let image = &wanted.image;
        let started = tokio::select! {
            () = self.0.closed.cancelled() => return,
            started = self.start_one(wanted, owner).instrument(tracing::debug_span!("start ahead", %image)) => started,
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

    async fn start_one(&self, wanted: &Wanted, owner: &Owner) -> Result<Option<Ready>, InstanceError> {
        let spec = self.spec(wanted)?;
        let mut candidates = self.0.ports.candidates(&mut rand::rng());
        loop {
            let lease = candidates.next_lease()?;
            let id = InstanceId::random();
            match self.0.engine.start_ahead(id, &spec, owner, lease.port()).await {
                Err(EngineError::PortTaken(port)) => tracing::debug!(%port, "taken, trying another"),
                Err(error) => return Err(error.into()),
                Ok(waiting) => {
                    return Ok(waiting.map(|waiting| Ready {
                        image: wanted.image.clone(),
                        since: Instant::now(),
                        waiting,
                        unkept: Unkept::new(&self.0.engine, &self.0.tracker, id),
                        counted: METRICS.pool_waiting(),
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
            ttl: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::Limits;

    struct Desk {
        engine: Arc<FakeEngine>,
        pool: Pool,
        tracker: TaskTracker,
    }

    impl Desk {
        fn new(size: usize, is_short_of_memory: fn() -> bool) -> Self {
            let engine = Arc::new(FakeEngine::default());
            let tracker = TaskTracker::new();
            let defaults = Defaults {
                image: image("17"),
                limits: Limits::new(512, 1000).expect("limits"),
                durable: false,
            };
            let ports = PortAllocator::new("1-9".parse().expect("a range"));
            let pool = Pool::new(
                engine.clone(),
                ports,
                defaults,
                size,
                is_short_of_memory,
                tracker.clone(),
            );
            pool.open(Owner {
                process: "scope.process".into(),
                machine: "laptop".into(),
                process_id: 4711,
                started_at: None,
                team: None,
                client: None,
            });
            Self { engine, pool, tracker }
        }

        fn want(&self, version: &str) {
            self.pool.want(&image(version), &"postgres".parse().expect("a name"));
        }

        fn take(&self, version: &str) -> Option<Ready> {
            let wanted = Wanted {
                image: image(version),
                database: "app".parse().expect("a name"),
            };
            self.pool.take(&self.pool.spec(&wanted).expect("a specification"))
        }

        /// How many wait, once nothing happens any more.
        async fn waiting(&self) -> usize {
            // The clock is paused: it goes on when all else has come to rest.
            tokio::time::sleep(MEMORY_LOOK * 2).await;
            assert_eq!(
                self.pool.state().ready.len(),
                self.engine.waiting.lock().expect("unpoisoned").len()
            );
            self.pool.state().ready.len()
        }

        async fn close(self) {
            self.pool.close();
            self.tracker.close();
            self.tracker.wait().await;
            assert!(
                self.engine.waiting.lock().expect("unpoisoned").is_empty(),
                "all are removed"
            );
        }
    }

    fn image(version: &str) -> Image {
        Image::new("postgres", version).expect("an image")
    }

    #[tokio::test(start_paused = true)]
    async fn each_version_that_was_asked_for_has_its_servers_and_the_last_four_alone() {
        let desk = Desk::new(2, || false);
        assert_eq!(desk.waiting().await, 0, "nobody has asked yet");
        desk.want("17");
        assert_eq!(desk.waiting().await, 2);
        for version in ["13", "14", "15", "16"] {
            desk.want(version);
        }
        assert_eq!(desk.waiting().await, 8);
        assert!(desk.take("17").is_none() && desk.take("13").is_some());
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_replaced_but_not_while_a_create_is_under_way() {
        let desk = Desk::new(1, || false);
        desk.want("17");
        assert_eq!(desk.waiting().await, 1);
        let creating = desk.pool.creating();
        let mut taken = desk.take("17").expect("one waits");
        assert!(desk.take("17").is_none(), "nobody else gets it");
        desk.pool.0.changed.notify_one();
        tokio::time::sleep(MEMORY_LOOK * 2).await;
        assert!(desk.pool.state().ready.is_empty());
        drop(creating);
        tokio::time::sleep(MEMORY_LOOK * 2).await;
        assert_eq!(desk.pool.state().ready.len(), 1);
        taken.unkept.remove().await;
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_lost_is_removed_and_replaced_at_once() {
        let desk = Desk::new(1, || false);
        desk.want("17");
        assert_eq!(desk.waiting().await, 1);
        let lost = desk.pool.state().ready[0].waiting.id();
        desk.engine.waiting.lock().expect("unpoisoned").remove(&lost);
        // Less than it takes to look by itself.
        tokio::time::sleep(MEMORY_LOOK / 2).await;
        assert_ne!(desk.pool.state().ready[0].waiting.id(), lost);
        assert!(desk.engine.calls().contains(&"remove".to_owned()));
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_waited_for_six_hours_is_removed_and_another_takes_its_place() {
        let desk = Desk::new(1, || false);
        desk.want("17");
        assert_eq!(desk.waiting().await, 1);
        let first = desk.pool.state().ready[0].waiting.id();
        tokio::time::sleep(AGE_MAX.saturating_sub(MEMORY_LOOK * 4)).await;
        assert_eq!(desk.pool.state().ready[0].waiting.id(), first);
        tokio::time::sleep(MEMORY_LOOK * 4).await;
        assert_eq!(desk.waiting().await, 1);
        assert_ne!(desk.pool.state().ready[0].waiting.id(), first);
        assert_eq!(desk.engine.calls().iter().filter(|call| *call == "remove").count(), 1);
        // One that was taken is nobody's but the create's, however old it gets.
        let taken = desk.take("17").expect("one waits");
        tokio::time::sleep(AGE_MAX * 2).await;
        assert!(!taken.waiting.is_lost());
        drop(taken);
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_whose_servers_end_at_once_is_given_up_until_it_is_asked_for_again() {
        let desk = Desk::new(1, || false);
        desk.want("17");
        for _ in 0..SHORT_LIVES_MAX {
            tokio::time::sleep(Duration::from_secs(1)).await;
            desk.engine.waiting.lock().expect("unpoisoned").clear();
        }
        assert_eq!(desk.waiting().await, 0);
        desk.want("17");
        assert_eq!(desk.waiting().await, 1);
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn none_waits_while_the_machine_is_short_of_memory() {
        static IS_SHORT: AtomicBool = AtomicBool::new(false);
        let desk = Desk::new(2, || IS_SHORT.load(Ordering::Relaxed));
        desk.want("17");
        assert_eq!(desk.waiting().await, 2);
        IS_SHORT.store(true, Ordering::Relaxed);
        assert_eq!(desk.waiting().await, 0);
        IS_SHORT.store(false, Ordering::Relaxed);
        assert_eq!(desk.waiting().await, 2);
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn other_limits_and_durability_are_made_when_they_are_asked_for() {
        let desk = Desk::new(1, || false);
        desk.want("17");
        assert_eq!(desk.waiting().await, 1);
        let wanted = Wanted {
            image: image("17"),
            database: "app".parse().expect("a name"),
        };
        let spec = desk.pool.spec(&wanted).expect("a specification");
        let durable = InstanceSpec {
            durable: true,
            ..spec.clone()
        };
        let larger = InstanceSpec {
            limits: Limits::new(513, 1000).expect("limits"),
            ..spec.clone()
        };
        assert!(desk.pool.take(&durable).is_none() && desk.pool.take(&larger).is_none());
        assert!(desk.pool.take(&spec).is_some());
        desk.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_of_no_size_starts_nothing() {
        let desk = Desk::new(0, || false);
        desk.want("17");
        assert_eq!(desk.waiting().await, 0);
        assert!(desk.take("17").is_none());
        desk.close().await;
    }
}
