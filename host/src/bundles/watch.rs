//! Being told that something may have changed in a folder, even one that isn't there yet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long nothing may happen before a change counts as whole: a file is written in pieces.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may go on before they are looked at nonetheless.
const RESTLESS_MAX: Duration = Duration::from_secs(2);

/// Watches a folder and, so that it may come and go, the one that it is in.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    system: RecommendedWatcher,
    watched: Vec<PathBuf>,
    /// What is looked at begins with one of these.
    concerned: Arc<Mutex<Vec<PathBuf>>>,
    told: Arc<Notify>,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Why the system can't tell of changes.
    pub(super) fn new(folder: &Path) -> Result<Self, String> {
        let (concerned, told) = (Arc::<Mutex<Vec<PathBuf>>>::default(), Arc::new(Notify::new()));
        let (its_concerned, its_told) = (Arc::clone(&concerned), Arc::clone(&told));
        let system = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerned = its_concerned.lock().unwrap_or_else(PoisonError::into_inner);
            // An error may stand for changes that were lost.
            if event.map_or(true, |event| concerns(&event, &concerned)) {
                its_told.notify_one();
            }
        });
        Ok(Self {
            folder: std::path::absolute(folder).map_err(|error| error.to_string())?,
            system: system.map_err(|error| error.to_string())?,
            watched: Vec::new(),
            concerned,
            told,
        })
    }

    /// Watches the folder that is there now: a new one may have the name of the one before. It may block for a short time.
    ///
    /// # Errors
    /// Why changes may go unseen.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        for path in self.watched.drain(..) {
            // The system itself has ended it if the folder is gone.
            let _ = self.system.unwatch(&path);
        }
        // The deepest one that is there, from which the way to the folder goes on under this name.
        let above = self.folder.ancestors().skip(1);
        let mut above = above.filter_map(|path| Some((path, path.canonicalize().ok()?)));
        let (above, real_above) = above.next().ok_or("it is nowhere")?;
        let next = self.folder.strip_prefix(above).ok().and_then(|rest| rest.iter().next());
        let mut concerned: Vec<PathBuf> = next.map(|next| real_above.join(next)).into_iter().collect();
        let mut places = vec![real_above];
        // It may be reached through a link, and what it holds is told of under its real name.
        if let Ok(real) = self.folder.canonicalize() {
            concerned.push(real.clone());
            places.push(real);
        }
        *self.concerned.lock().unwrap_or_else(PoisonError::into_inner) = concerned;
        for place in places {
            let watched = self.system.watch(&place, RecursiveMode::NonRecursive);
            match watched {
                Ok(()) => self.watched.push(place),
                // It went meanwhile: so much has changed.
                Err(_) if !place.exists() => self.told.notify_one(),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Waits for a change, and then until it seems to be whole.
    pub(super) async fn changed(&self) {
        self.told.notified().await;
        let rest = async { while timeout(QUIET, self.told.notified()).await.is_ok() {} };
        // It is looked at again when it goes on.
        let _ = timeout(RESTLESS_MAX, rest).await;
    }
}

fn concerns(event: &Event, concerned: &[PathBuf]) -> bool {
    let changes_nothing = match event.kind {
        EventKind::Access(kind) => kind != AccessKind::Close(AccessMode::Write),
        _ => false,
    };
    let is_concerned = |path: &PathBuf| concerned.iter().any(|begin| path.starts_with(begin));
    !changes_nothing && (event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(is_concerned))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// How long the system may take to tell on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn watch(folder: &Path) -> Watch {
        let mut watch = Watch::new(folder).expect("the system tells of changes");
        watch.begin().expect("it can be watched");
        watch
    }

    async fn is_told(watch: &mut Watch) {
        timeout(PATIENCE, watch.changed()).await.expect("it is told in time");
        watch.begin().expect("it can still be watched");
    }

    async fn is_told_nothing(watch: &Watch) {
        let told = timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(told.is_err(), "nothing has changed");
    }

    #[tokio::test]
    async fn every_way_to_change_a_folder_is_told_of_and_looking_at_it_is_not() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("bundles");
        fs::create_dir(&folder).expect("a folder");
        let (file, other) = (folder.join("a.wasm"), folder.join("b.wasm"));
        let mut watch = watch(&folder);
        fs::write(&file, "one").expect("written");
        is_told(&mut watch).await;
        fs::write(&file, "two").expect("written in place");
        is_told(&mut watch).await;
        fs::rename(&file, &other).expect("renamed");
        is_told(&mut watch).await;
        fs::remove_file(&other).expect("removed");
        is_told(&mut watch).await;
        fs::write(&file, "three").expect("written");
        is_told(&mut watch).await;

        fs::read(&file).expect("readable");
        fs::read_dir(&folder).expect("readable").for_each(drop);
        fs::write(home.path().join("beside"), "x").expect("a file");
        is_told_nothing(&watch).await;
    }

    #[tokio::test]
    async fn a_folder_may_go_and_come_with_all_that_it_is_in() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("in/here");
        let mut watch = watch(&folder);
        for _ in 0..2 {
            fs::create_dir(home.path().join("in")).expect("a folder");
            is_told(&mut watch).await;
            fs::create_dir(&folder).expect("a folder");
            is_told(&mut watch).await;
            fs::write(folder.join("a.wasm"), "x").expect("a file");
            is_told(&mut watch).await;
            fs::remove_dir_all(home.path().join("in")).expect("removed");
            is_told(&mut watch).await;
        }
        fs::create_dir_all(&folder).expect("all at once");
        is_told(&mut watch).await;
        fs::write(folder.join("a.wasm"), "x").expect("a file");
        is_told(&mut watch).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_a_link_leads_to_is_watched_and_so_is_the_link() {
        let home = tempfile::tempdir().expect("a folder");
        for real in ["one", "two"] {
            fs::create_dir(home.path().join(real)).expect("a folder");
        }
        let (link, new) = (home.path().join("link"), home.path().join("new"));
        std::os::unix::fs::symlink("one", &link).expect("a link");
        let mut watch = watch(&link);
        fs::write(home.path().join("one/a.wasm"), "x").expect("a file");
        is_told(&mut watch).await;
        std::os::unix::fs::symlink("two", &new).expect("a link");
        fs::rename(&new, &link).expect("it leads elsewhere");
        is_told(&mut watch).await;
        fs::write(home.path().join("two/a.wasm"), "x").expect("a file");
        is_told(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_told_of_once_they_pause_or_have_gone_on_for_long() {
        let home = tempfile::tempdir().expect("a folder");
        let watch = watch(home.path());
        let begun = tokio::time::Instant::now();
        let busy = async {
            for _ in 0..100 {
                watch.told.notify_one();
                tokio::time::sleep(QUIET / 2).await;
            }
        };
        let looks = async {
            let mut looks = Vec::new();
            while timeout(2 * RESTLESS_MAX, watch.changed()).await.is_ok() {
                looks.push(begun.elapsed());
            }
            looks
        };
        let ((), looks) = tokio::join!(busy, looks);
        let seconds: Vec<u64> = looks.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [2, 4, 5], "5 s of changes: {looks:?}");
    }
}
