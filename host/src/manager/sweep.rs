//! Removing instances that are over: their time has come, or the process that they belong to has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{SESSION_ENDED, remove_stubbornly};
use crate::engine::{Engine, EngineError, Pruned};
use crate::instance::{EngineKind, Instance, InstanceId, Lifetime};
use crate::metrics::METRICS;
use crate::owner::Owners;

/// How often it is looked what is over, at least: other processes make and extend instances and tell nobody, and a machine
/// that slept has missed its timers.
const LOOK_PAUSE: Duration = Duration::from_secs(15);
/// How often at most: an end is a matter of seconds.
const LOOK_PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long it is tried to read how long an instance stays whose session has ended.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// The pause before it is tried again.
const READ_PAUSE: Duration = Duration::from_millis(250);

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
    /// It has an end, and its engine doesn't tell the time.
    Unknown,
}

/// What the engines' clocks show, each asked once: one that doesn't tell takes its time not to.
#[derive(Debug)]
struct Clocks<'a> {
    engine: &'a dyn Engine,
    shown: Vec<(EngineKind, Option<SystemTime>)>,
}

impl<'a> Clocks<'a> {
    fn of(engine: &'a dyn Engine) -> Self {
        Self {
            engine,
            shown: Vec::new(),
        }
    }

    async fn now(&mut self, kind: EngineKind) -> Option<SystemTime> {
        if let Some((_, now)) = self.shown.iter().find(|(of, _)| *of == kind) {
            return *now;
        }
        let now = match self.engine.now(kind).await {
            Ok(now) => Some(now),
            Err(error) => {
                let engine = kind.as_str();
                tracing::warn!(engine, %error, "it can't be told whose time to live has ended: nothing of this engine expires");
                None
            }
        };
        self.shown.push((kind, now));
        now
    }

    /// How long an instance has until its end; `None` if it has none, or that can't be told.
    async fn until_end(&mut self, instance: &Instance) -> Option<Duration> {
        let Lifetime::Until(end) = instance.lifetime else {
            return None;
        };
        let now = self.now(instance.engine).await?;
        Some(end.duration_since(now).unwrap_or_default())
    }

    async fn is_over(&mut self, instance: &Instance) -> bool {
        self.until_end(instance).await == Some(Duration::ZERO)
    }
}

/// Removes what is over. It asks no policy: what an instance was allowed to live has been decided.
#[derive(Debug, Clone)]
pub struct Sweeper {
    engine: Arc<dyn Engine>,
    owners: Owners,
}

impl Sweeper {
    /// For the instances of `engine`; `owners` judges whose process has ended.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, owners: Owners) -> Self {
        Self { engine, owners }
    }

    /// Removes what killed processes have left and what is over, as every process does at its start. What can't be removed is
    /// logged, and stays for the next one.
    pub async fn recover(&self) {
        let owners = self.owners.clone();
        let killed = tokio::task::spawn_blocking(move || owners.tidy()).await.ok().flatten();
        // Whoever asks for the engine next is told.
        if let Err(error) = self.sweep(false, &mut Vec::new()).await {
            tracing::debug!(error = ?error.to_string(), "it can't be told which instances are over");
        }
        // Then: what the sweep didn't come across because its removal had begun is still waited for.
        match (self.engine.recover(killed.is_some()).await, killed) {
            (Ok(()), Some(killed)) => {
                let owners = self.owners.clone();
                // If it fails, it is looked once more.
                let _ = tokio::task::spawn_blocking(move || owners.recovered(&killed)).await;
            }
            (Ok(()), None) => {}
            (Err(error @ EngineError::Unreachable { .. }), _) => {
                tracing::debug!(error = ?error.to_string(), "what killed processes have left can't be looked for");
            }
            (Err(error), _) => tracing::warn!(%error, "what killed processes have left stays for now"),
        }
    }

    /// Removes the instances that are over, and adds them to `swept`. `dry_run` only says which.
    ///
    /// An instance belongs to a process only where this machine can tell whether that lives: those of other machines on the
    /// same daemon go by their time alone.
    ///
    /// # Errors
    /// If the engine can't tell which instances there are. One that can't be read or removed, or of which it can't be told
    /// whether it is over, is logged and stays for the next time.
    pub async fn sweep(&self, dry_run: bool, swept: &mut Vec<Pruned>) -> Result<(), EngineError> {
        let instances = self.engine.list_all().await?;
        self.remove_over(&instances, &mut self.clocks(), dry_run, swept).await;
        Ok(())
    }

    async fn remove_over(
        &self,
        instances: &[Instance],
        clocks: &mut Clocks<'_>,
        dry_run: bool,
        swept: &mut Vec<Pruned>,
    ) {
        for instance in instances {
            let id = instance.id;
            if self.why_over(instance, clocks).await.is_none() {
                continue;
            }
            // Looked at again, right before: somebody may have extended it since.
            let over = match self.legible(id).await {
                Ok(Some(instance)) => self.why_over(&instance, clocks).await,
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%id, %error, "an instance that may be over can't be read, and stays for now");
                    None
                }
            };
            let Some(over) = over else {
                continue;
            };
            let reason = over.reason();
            if !dry_run {
                match self.engine.remove(id).await {
                    Ok(true) => {
                        METRICS.reaped("instance", over.word());
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
    }

    /// Removes what is over and what killed processes have left, whenever there may be something, until the future is dropped.
    pub async fn keep_sweeping(&self) -> Infallible {
        loop {
            let instances = match self.engine.list_all().await {
                Ok(instances) => instances,
                Err(error) => {
                    tracing::debug!(error = ?error.to_string(), "it can't be told which instances there are");
                    Vec::new()
                }
            };
            self.remove_over(&instances, &mut self.clocks(), false, &mut Vec::new())
                .await;
            if let Err(error) = self.engine.recover(false).await {
                tracing::debug!(error = ?error.to_string(), "what killed processes have left can't be looked for");
            }
            tokio::time::sleep(until_next_end(&instances, &mut self.clocks()).await).await;
        }
    }

    fn clocks(&self) -> Clocks<'_> {
        Clocks::of(self.engine.as_ref())
    }

    /// Whether an instance's time has come, by its engine's clock. It counts as gone then, whether it is removed yet or not;
    /// one of which that can't be told doesn't.
    pub(super) async fn is_over(&self, instance: &Instance) -> bool {
        self.clocks().is_over(instance).await
    }

    /// Those of them whose time hasn't come.
    pub(super) async fn not_over(&self, instances: Vec<Instance>) -> Vec<Instance> {
        let mut clocks = self.clocks();
        let mut there = Vec::new();
        for instance in instances {
            if !clocks.is_over(&instance).await {
                there.push(instance);
            }
        }
        there
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

    async fn why_over(&self, instance: &Instance, clocks: &mut Clocks<'_>) -> Option<Over> {
        if clocks.is_over(instance).await {
            return Some(Over::Expired);
        }
        self.is_orphan(instance).await.then_some(Over::Orphan)
    }

    /// How long each of these has left.
    pub async fn left(&self, instances: &[Instance]) -> Vec<Left> {
        let mut clocks = self.clocks();
        let mut all = Vec::new();
        for instance in instances {
            all.push(match instance.lifetime {
                Lifetime::Until(_) => clocks.until_end(instance).await.map_or(Left::Unknown, Left::Time),
                Lifetime::Session if self.is_orphan(instance).await => Left::Orphan,
                Lifetime::Session => Left::Session,
                Lifetime::Unlimited => Left::Unlimited,
            });
        }
        all
    }

    /// An instance as far as it can be read, over or not: enough to remove it.
    pub(super) async fn legible(&self, id: InstanceId) -> Result<Option<Instance>, EngineError> {
        match self.engine.get(id).await {
            Ok(found) => Ok(found.map(|found| found.instance)),
            Err(EngineError::Damaged { legible, .. }) => Ok(Some(*legible)),
            Err(error) => Err(error),
        }
    }

    /// Removes one of this process's at its end, unless it has been given more time.
    pub(super) async fn end_session_of(&self, id: InstanceId) {
        let begun = Instant::now();
        let found = loop {
            match self.engine.get(id).await {
                // Another process may have given it time, and nobody else tells.
                Err(error) if begun.elapsed() < READ_PATIENCE => {
                    tracing::debug!(%id, error = ?error.to_string(), "it can't be told yet how long an instance stays");
                }
                found => break found,
            }
            tokio::time::sleep(READ_PAUSE).await;
        };
        match found {
            Ok(Some(found)) if found.instance.lifetime != Lifetime::Session => {}
            Ok(None) if self.engine.unseen().await.is_none() => {}
            Err(EngineError::Damaged { legible, .. }) if matches!(legible.lifetime, Lifetime::Until(_)) => {}
            // Where that can't be told, it is as it was.
            Ok(_) | Err(_) => remove_stubbornly(Arc::clone(&self.engine), id, SESSION_ENDED).await,
        }
    }
}

/// How long to wait for the next look, after one at these by these clocks.
async fn until_next_end(instances: &[Instance], clocks: &mut Clocks<'_>) -> Duration {
    let mut pause = LOOK_PAUSE;
    for instance in instances {
        if let Some(left) = clocks.until_end(instance).await {
            pause = pause.min(left);
        }
    }
    pause.max(LOOK_PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};

    use tokio::time::timeout;
    use tokio_util::task::TaskTracker;
    use uuid::Uuid;

    use super::*;
    use crate::engine::fake::{FakeEngine, Server};
    use crate::instance::{Caller, CreateRequest, Defaults, Found, Image, Limits, Owner, ProgressSink, Status};
    use crate::manager::tests::Rules;
    use crate::manager::{InstanceManager, Settings};
    use crate::owner;

    struct Desk {
        engine: Arc<FakeEngine>,
        manager: InstanceManager,
        tracker: TaskTracker,
        owners: Owners,
        state: tempfile::TempDir,
    }

    impl Desk {
        fn new(engine: FakeEngine) -> Self {
            let state = tempfile::tempdir().expect("a folder");
            let owners = Owners::new(Some(state.path()));
            let (engine, tracker) = (Arc::new(engine), TaskTracker::new());
            let settings = Settings {
                defaults: Defaults {
                    image: Image::new("postgres", "17").expect("an image"),
                    limits: Limits::new(512, 1000).expect("limits"),
                    durable: false,
                },
                ports: "1-9".parse().expect("a range"),
                ready_timeout: Duration::from_secs(1),
                pool_size: 0,
                keeps_on_exit: false,
                team: None,
            };
            let manager = InstanceManager::new(
                engine.clone(),
                Arc::new(Rules::default()),
                settings,
                owners.clone(),
                tracker.clone(),
            );
            Self {
                engine,
                manager,
                tracker,
                owners,
                state,
            }
        }

        /// One more instance of this owner and lifetime.
        fn add(&self, owner: Option<Owner>, lifetime: Lifetime) -> InstanceId {
            let (other, id) = FakeEngine::default().with_instance(Status::Running);
            let mut found = other.instances.lock().expect("unpoisoned").remove(0);
            found.instance.owner = owner;
            found.instance.lifetime = lifetime;
            self.engine.instances.lock().expect("unpoisoned").push(found);
            id
        }

        /// What it has removed.
        async fn sweep(&self, dry_run: bool) -> Vec<Pruned> {
            let mut swept = Vec::new();
            let sweeper = self.manager.sweeper();
            sweeper.sweep(dry_run, &mut swept).await.expect("swept");
            swept
        }

        /// Has somebody change an instance.
        fn change(&self, id: InstanceId, change: impl FnOnce(&mut Found)) {
            let mut instances = self.engine.instances.lock().expect("unpoisoned");
            let found = instances.iter_mut().find(|found| found.instance.id == id);
            change(found.expect("it is there"));
        }

        fn has(&self, id: InstanceId) -> bool {
            let instances = self.engine.instances.lock().expect("unpoisoned");
            instances.iter().any(|found| found.instance.id == id)
        }

        /// As a process of this machine had it that has ended.
        fn ended(&self) -> Owner {
            Owners::new(Some(self.state.path())).owner(&Caller::default())
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + seconds)
    }

    #[tokio::test]
    async fn what_is_past_its_time_by_its_engines_own_clock_is_removed_and_nothing_else() {
        // Years from what this machine's clock shows.
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(100))),
            ..FakeEngine::default()
        });
        let over = desk.add(None, Lifetime::Until(at(100)));
        let not_yet = desk.add(None, Lifetime::Until(at(101)));
        let endless = desk.add(None, Lifetime::Unlimited);
        let caller = Caller::default();
        let listed = desk.manager.list(&caller).await.expect("a list");
        assert!(
            listed.iter().all(|instance| instance.id != over),
            "it counts as gone at once"
        );
        desk.manager.get(over, &caller).await.expect_err("it counts as gone");
        assert!(desk.has(over));

        let would = desk.sweep(true).await;
        assert_eq!((would.len(), would[0].name.clone()), (1, over.to_string()));
        assert!(desk.has(over), "only said");
        desk.sweep(false).await;
        assert_eq!([over, not_yet, endless].map(|id| desk.has(id)), [false, true, true]);
    }

    #[tokio::test]
    async fn what_belongs_to_a_process_that_has_ended_is_removed_unless_it_was_given_time() {
        let desk = Desk::new(FakeEngine::default());
        let living = desk.owners.owner(&Caller::default());
        let elsewhere = tempfile::tempdir().expect("a folder");
        let foreign = Owners::new(Some(elsewhere.path())).owner(&Caller::default());
        let orphan = desk.add(Some(desk.ended()), Lifetime::Session);
        let given_time = desk.add(
            Some(desk.ended()),
            Lifetime::Until(SystemTime::now() + Duration::from_mins(1)),
        );
        let kept = desk.add(Some(desk.ended()), Lifetime::Unlimited);
        let of_living = desk.add(Some(living), Lifetime::Session);
        // Another machine's: whether that process lives can't be told here.
        let of_foreign = desk.add(Some(foreign), Lifetime::Session);
        let swept = desk.sweep(false).await;
        assert_eq!(swept.len(), 1, "{swept:?}");
        assert_eq!(swept[0].reason, "the process that it belongs to has ended");
        assert_eq!(
            [orphan, given_time, kept, of_living, of_foreign].map(|id| desk.has(id)),
            [false, true, true, true, true]
        );
    }

    #[tokio::test]
    async fn what_is_damaged_ends_when_it_would_have_ended_and_counts_until_then() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(100))),
            ..FakeEngine::default()
        });
        let orphan = desk.add(Some(desk.ended()), Lifetime::Session);
        let over = desk.add(None, Lifetime::Until(at(100)));
        let not_yet = desk.add(None, Lifetime::Until(at(101)));
        desk.engine
            .damaged
            .lock()
            .expect("unpoisoned")
            .extend([orphan, over, not_yet]);
        assert_eq!(desk.manager.inventory().holdings().await.expect("told").len(), 3);
        desk.sweep(false).await;
        assert_eq!([orphan, over, not_yet].map(|id| desk.has(id)), [false, false, true]);
    }

    #[tokio::test]
    async fn a_process_that_ends_removes_its_own_sessions_instances_and_those_alone() {
        let desk = Desk::new(FakeEngine::default());
        let mine = desk.owners.owner(&Caller::default());
        let [session, extended, dropped] = [(); 3].map(|()| desk.add(Some(mine.clone()), Lifetime::Session));
        let others = desk.add(Some(desk.ended()), Lifetime::Session);
        for id in [session, extended, dropped] {
            assert!(desk.manager.sessions.add(id));
        }
        let later = Lifetime::Until(SystemTime::now() + Duration::from_mins(1));
        // By another process, which tells nobody.
        desk.engine.keep(extended, later).await.expect("it is there");
        desk.engine.remove(dropped).await.expect("it is there");
        desk.manager.close();
        desk.tracker.close();
        desk.tracker.wait().await;
        assert_eq!([session, extended, others].map(|id| desk.has(id)), [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_only_after_the_end_of_its_process_has_begun_goes_too_and_that_end_waits_for_it() {
        let desk = Desk::new(FakeEngine {
            server: Server::Answers,
            ..FakeEngine::default()
        });
        let caller = Caller {
            client: Some("test".into()),
            ..Caller::default()
        };
        let (request, by_hand, sink) = (CreateRequest::default(), Caller::default(), ProgressSink::none());
        let mut made = Vec::new();
        // What the command line makes is no session's.
        for caller in [&caller, &caller, &by_hand] {
            made.push(desk.manager.create(&request, caller, &sink).await.expect("created"));
        }
        let ids: Vec<InstanceId> = made.iter().map(|new| new.connection().instance.id).collect();
        let mut made = made.into_iter();
        made.next().expect("three").keep().await.expect("kept");
        desk.manager.close();
        desk.tracker.close();
        let ended = timeout(Duration::from_secs(1), desk.tracker.wait()).await;
        ended.expect_err("two are neither kept nor removed yet");
        for new in made {
            new.keep().await.expect("kept");
        }
        desk.tracker.wait().await;
        let there: Vec<bool> = ids.into_iter().map(|id| desk.has(id)).collect();
        assert_eq!(there, [false, false, true]);
    }

    #[tokio::test]
    async fn an_engine_that_does_not_tell_the_time_lets_nothing_expire_and_keeps_nothing_else_from_its_end() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(100))),
            clockless: vec![EngineKind::Docker],
            ..FakeEngine::default()
        });
        let timed = desk.add(None, Lifetime::Until(at(1)));
        let orphan = desk.add(Some(desk.ended()), Lifetime::Session);
        let elsewhere = desk.add(None, Lifetime::Until(at(1)));
        desk.change(elsewhere, |found| found.instance.engine = EngineKind::Local);
        let swept = desk.sweep(false).await;
        assert_eq!(swept.len(), 2, "{swept:?}");
        assert_eq!([timed, orphan, elsewhere].map(|id| desk.has(id)), [true, false, false]);

        // It is still shown, and can be dropped.
        let caller = Caller::default();
        let listed = desk.manager.list(&caller).await.expect("a list");
        assert_eq!(listed.iter().map(|instance| instance.id).collect::<Vec<_>>(), [timed]);
        assert_eq!(desk.manager.sweeper().left(&listed).await, [Left::Unknown]);
        desk.manager.get(timed, &caller).await.expect("it is there");
        desk.manager.remove(timed, &caller).await.expect("it is there");
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_stays_and_keeps_no_other_from_its_end() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(100))),
            ..FakeEngine::default()
        });
        let [unreadable, over] = [(); 2].map(|()| desk.add(None, Lifetime::Until(at(100))));
        let orphan = desk.add(Some(desk.ended()), Lifetime::Session);
        desk.engine.unreadable.lock().expect("unpoisoned").push(unreadable);
        let swept = desk.sweep(false).await;
        assert_eq!(swept.len(), 2, "{swept:?}");
        assert_eq!([unreadable, over, orphan].map(|id| desk.has(id)), [true, false, false]);
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_puts_the_end_off() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(0))),
            ..FakeEngine::default()
        });
        let id = desk.add(None, Lifetime::Until(at(1)));
        desk.sweep(false).await;
        assert!(desk.has(id));
    }

    #[tokio::test]
    async fn how_long_each_has_left_is_told_and_an_orphan_is_one_to_those_that_can_judge_its_process() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(0))),
            ..FakeEngine::default()
        });
        let elsewhere = tempfile::tempdir().expect("a folder");
        let foreign = Owners::new(Some(elsewhere.path())).owner(&Caller::default());
        for (owner, lifetime) in [
            (Some(desk.ended()), Lifetime::Session),
            (Some(desk.owners.owner(&Caller::default())), Lifetime::Session),
            (Some(foreign), Lifetime::Session),
            (Some(desk.ended()), Lifetime::Until(at(7))),
            (None, Lifetime::Unlimited),
        ] {
            desk.add(owner, lifetime);
        }
        let listed = desk.manager.list(&Caller::default()).await.expect("a list");
        assert_eq!(
            desk.manager.sweeper().left(&listed).await,
            [
                Left::Orphan,
                Left::Session,
                Left::Session,
                Left::Time(Duration::from_secs(7)),
                Left::Unlimited
            ]
        );
    }

    #[tokio::test]
    async fn what_killed_processes_have_left_is_looked_for_until_the_engine_could_look_and_once_then() {
        let desk = Desk::new(FakeEngine {
            failing_recoveries: 1.into(),
            ..FakeEngine::default()
        });
        desk.owners.me().expect("a name");
        let owners = desk.state.path().join(owner::FOLDER);
        fs::write(owners.join(Uuid::new_v4().to_string()), "").expect("the file of one that was killed");
        for _ in 0..3 {
            desk.manager.sweeper().recover().await;
        }
        let was_killed = [true, true, false].map(|was_killed| format!("recover, was_killed: {was_killed}"));
        let mut asked = desk.engine.calls();
        asked.retain(|call| call.starts_with("recover"));
        assert_eq!(asked, was_killed);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_sweeping_looks_when_the_next_one_ends_and_every_15_seconds_at_least() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(0))),
            ..FakeEngine::default()
        });
        let pause = async || {
            let instances = desk.engine.list_all().await.expect("a list");
            until_next_end(&instances, &mut Clocks::of(&*desk.engine)).await
        };
        assert_eq!(pause().await, LOOK_PAUSE);
        desk.add(None, Lifetime::Until(at(3600)));
        assert_eq!(pause().await, LOOK_PAUSE);
        desk.add(None, Lifetime::Until(at(7)));
        assert_eq!(pause().await, Duration::from_secs(7));
        desk.add(None, Lifetime::Until(at(0)));
        assert_eq!(pause().await, LOOK_PAUSE_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_while_the_machine_slept_is_removed_at_the_next_look() {
        let desk = Desk::new(FakeEngine {
            now: Mutex::new(Some(at(0))),
            ..FakeEngine::default()
        });
        let ended = desk.add(None, Lifetime::Until(at(1800)));
        let not_yet = desk.add(None, Lifetime::Until(at(2 * 3600)));
        let endless = desk.add(None, Lifetime::Unlimited);
        let mut sweeping = pin!(desk.manager.sweeper().keep_sweeping());
        let awake = timeout(LOOK_PAUSE * 5 / 2, &mut sweeping).await;
        awake.expect_err("it goes on");
        assert_eq!([ended, not_yet, endless].map(|id| desk.has(id)), [true, true, true]);
        // Timers go by a clock that stands still while a machine sleeps: none of them tells.
        *desk.engine.now.lock().expect("unpoisoned") = Some(at(3600));
        let awake = timeout(LOOK_PAUSE, &mut sweeping).await;
        awake.expect_err("it goes on");
        assert_eq!([ended, not_yet, endless].map(|id| desk.has(id)), [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_that_the_engine_refuses_is_no_holding_any_more() {
        let desk = Desk::new(FakeEngine {
            taken: (1..=9).collect(),
            ..FakeEngine::default()
        });
        let (request, caller, progress) = (CreateRequest::default(), Caller::default(), ProgressSink::none());
        let outcome = desk.manager.create(&request, &caller, &progress).await;
        outcome.expect_err("every port is taken");
        let holdings = desk.manager.inventory().holdings().await.expect("told");
        assert_eq!(holdings, []);
    }
}
