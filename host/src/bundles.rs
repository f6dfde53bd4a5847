//! The tool bundles of one process: those that the configuration names, which stay, and those in a folder, which come and
//! go.
//!
//! Only the configuration decides what a bundle may do. A file in the folder has the grants of the entry with its name,
//! and none without one; it takes nobody's name and no other bundle's tool.

mod folder;
mod watch;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::watch as channel;

use self::folder::Found;
use self::watch::Watch;
use crate::config::{self, BundleName};
use crate::digest::Digest;
use crate::plugins::bundle::{Bundle, Terms};
use crate::plugins::toolbox::{Entry, Toolbox, collision};
use crate::plugins::{PluginError, Runtime, Source};

/// How many files of the folder are read and compiled at a time.
const LOADED_AT_A_TIME: usize = 4;

/// All bundles.
#[derive(Debug)]
pub struct Bundles {
    toolbox: channel::Receiver<Arc<Toolbox>>,
    /// Taken by whoever watches it.
    folder: Mutex<Option<Folder>>,
}

impl Bundles {
    /// Takes in what was loaded of the bundles that the configuration names, and loads those in the folder on the terms
    /// that its entries give.
    ///
    /// # Errors
    /// If the configuration itself is wrong: settings that a named bundle refuses, or two of them with a tool of one name.
    /// Whatever else is wrong with a bundle, and all that is wrong with a file in the folder, leaves out that bundle alone:
    /// what others have put there is no reason to be without tools.
    pub async fn load(
        runtime: &Runtime,
        named: Vec<Entry>,
        folder: Option<(PathBuf, Vec<&config::Bundle>)>,
    ) -> Result<Self, PluginError> {
        let mut accepted: Vec<Entry> = Vec::new();
        for entry in named {
            if let Some(problem @ PluginError::Settings { .. }) = entry.problem.as_deref() {
                return Err(problem.clone());
            }
            let collides = entry
                .bundle
                .as_ref()
                .and_then(|bundle| collision(bundle, accepted.iter()));
            if let Some(problem) = collides {
                return Err(problem);
            }
            accepted.push(entry);
        }
        let (now, toolbox) = channel::channel(Arc::new(Toolbox::new(accepted.clone())));
        let folder = match folder {
            Some((path, entries)) => {
                let entries = entries.into_iter();
                let mut folder = Folder {
                    runtime: runtime.clone(),
                    path,
                    configured: entries.map(|entry| (entry.name.clone(), entry.clone())).collect(),
                    named: accepted,
                    files: BTreeMap::new(),
                    problem: None,
                    now,
                };
                folder.reload().await;
                Some(folder)
            }
            None => None,
        };
        Ok(Self {
            toolbox,
            folder: Mutex::new(folder),
        })
    }

    /// The bundles as they are now.
    #[must_use]
    pub fn toolbox(&self) -> Arc<Toolbox> {
        Arc::clone(&self.toolbox.borrow())
    }

    /// The bundles as they are at any time. The sender lives as long as they can change.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<Arc<Toolbox>> {
        self.toolbox.clone()
    }

    /// Logs why bundles are missing.
    pub fn log_problems(&self) {
        self.toolbox().entries().iter().for_each(log_problem);
    }

    /// Follows what happens in the folder. It can be done once; after that, and without a folder, nothing ever happens.
    pub async fn watch(&self) -> Infallible {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner).take();
        match folder {
            Some(folder) => folder.watch().await,
            None => pending().await,
        }
    }
}

/// A folder of bundles, and what has become of each file.
#[derive(Debug)]
struct Folder {
    runtime: Runtime,
    path: PathBuf,
    /// What the configuration says of bundles in it.
    configured: BTreeMap<BundleName, config::Bundle>,
    /// The bundles that are not in it.
    named: Vec<Entry>,
    files: BTreeMap<PathBuf, File>,
    /// Why the folder itself could not be looked at, the last time.
    problem: Option<Entry>,
    now: channel::Sender<Arc<Toolbox>>,
}

#[derive(Debug, Clone)]
struct File {
    entry: Entry,
    /// What was read the last time; `None` if it could not be read.
    digest: Option<Digest>,
}

/// What has been made of a file that differs from what was read the last time.
struct Candidate {
    found: Found,
    digest: Option<Digest>,
    outcome: Result<Bundle, PluginError>,
}

impl Folder {
    async fn watch(mut self) -> Infallible {
        let mut watch = match Watch::new(&self.path) {
            Ok(watch) => watch,
            Err(reason) => {
                self.log_unwatched(&reason);
                return pending().await;
            }
        };
        let mut told = None;
        loop {
            // Before anything is read: whatever changes after that is told of.
            let unwatched = watch.begin().err();
            if let Some(reason) = unwatched.as_ref().filter(|_| unwatched != told) {
                self.log_unwatched(reason);
            }
            told = unwatched;
            self.reload().await;
            watch.changed().await;
        }
    }

    fn log_unwatched(&self, reason: &str) {
        let folder = self.path.display();
        tracing::error!(%folder, reason, "plugins.dir can't be watched: restart the server to have changes seen");
    }

    /// Reads what is there and takes over what has changed.
    async fn reload(&mut self) {
        let path = self.path.clone();
        let found = tokio::task::spawn_blocking(move || folder::list(&path)).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let before = self.entries();
        match found {
            Ok(found) => {
                self.problem = None;
                self.files
                    .retain(|path, _| found.iter().any(|found| found.path == *path));
                let candidates = found.into_iter().map(|found| self.candidate(found));
                let candidates: Vec<Option<Candidate>> =
                    stream::iter(candidates).buffered(LOADED_AT_A_TIME).collect().await;
                self.take_over(candidates.into_iter().flatten().collect());
            }
            // All stays as it was.
            Err(reason) => {
                let path = self.path.display().to_string();
                let problem = PluginError::Folder {
                    path: path.clone(),
                    reason,
                };
                self.problem = Some(Entry::new("plugins.dir", path, &Terms::default(), Err(problem)));
            }
        }
        let after = self.entries();
        log_changes(&before, &after);
        self.now.send_replace(Arc::new(Toolbox::new(after)));
    }

    fn entries(&self) -> Vec<Entry> {
        let files = self.files.values().map(|file| &file.entry);
        self.named.iter().chain(files).chain(&self.problem).cloned().collect()
    }

    /// `None` if it is what it was.
    async fn candidate(&self, found: Found) -> Option<Candidate> {
        let (name, path) = (found.shown_name(), found.path.clone());
        let read = tokio::task::spawn_blocking(move || folder::read(&path)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let digest = read.as_ref().ok().map(|bytes| Digest::of(bytes));
        let known = self.files.get(&found.path);
        // What could not be read before may be readable now, and a name that was taken may be free.
        let is_final = |file: &File| !matches!(file.entry.problem.as_deref(), Some(PluginError::Collision { .. }));
        let is_same = |known: &File| digest.is_some() && known.digest == digest && known.entry.name == name;
        if known.is_some_and(|known| is_same(known) && is_final(known)) {
            return None;
        }
        let outcome = match read {
            Ok(bytes) => self.load(&found, bytes).await,
            Err(reason) => Err(unreadable(name, &found, reason)),
        };
        Some(Candidate { found, digest, outcome })
    }

    async fn load(&self, found: &Found, bytes: Vec<u8>) -> Result<Bundle, PluginError> {
        let name = match &found.name {
            Ok(name) => name,
            Err(reason) => return Err(unreadable(found.shown_name(), found, reason.clone())),
        };
        if self.named.iter().any(|entry| entry.name == name.as_str()) {
            let reason = "the configuration has another bundle of this name".to_owned();
            return Err(unreadable(name.to_string(), found, reason));
        }
        let configured = self.configured.get(name);
        let settings = |bundle: &config::Bundle| bundle.component.settings.expose().clone();
        let source = Source {
            name: name.to_string(),
            from: found.path.display().to_string(),
            bytes: Cow::Owned(bytes),
            sha256: configured.and_then(|bundle| bundle.component.sha256),
            settings: configured.map(settings).unwrap_or_default(),
        };
        let terms = configured.map(|bundle| bundle.terms.clone()).unwrap_or_default();
        let load = AssertUnwindSafe(Bundle::load(&self.runtime, &source, &terms)).catch_unwind();
        // A defect of ours: whoever may write to the folder is not to end the server by it.
        let failed = |_| {
            Err(unreadable(
                name.to_string(),
                found,
                "the host failed at an internal error".into(),
            ))
        };
        load.await.unwrap_or_else(failed)
    }

    /// Takes candidates over one after the other, as if their files had changed so, and again while that frees names for
    /// those that were refused.
    fn take_over(&mut self, mut candidates: Vec<Candidate>) {
        loop {
            let before = candidates.len();
            let mut refused = Vec::new();
            for candidate in candidates {
                let others = self.files.iter().filter(|(path, _)| **path != candidate.found.path);
                let others = self.named.iter().chain(others.map(|(_, file)| &file.entry));
                let collides = candidate
                    .outcome
                    .as_ref()
                    .ok()
                    .and_then(|bundle| collision(bundle, others));
                match collides {
                    Some(problem) => refused.push((candidate, problem)),
                    None => self.put(candidate.found, candidate.digest, candidate.outcome),
                }
            }
            if refused.len() == before {
                for (candidate, problem) in refused {
                    self.put(candidate.found, candidate.digest, Err(problem));
                }
                return;
            }
            candidates = refused.into_iter().map(|(candidate, _)| candidate).collect();
        }
    }

    /// What was served stays where the new one is no good.
    fn put(&mut self, found: Found, digest: Option<Digest>, outcome: Result<Bundle, PluginError>) {
        let configured = found.name.as_ref().ok().and_then(|name| self.configured.get(name));
        let terms = configured.map(|bundle| bundle.terms.clone()).unwrap_or_default();
        let place = found.path.display().to_string();
        let mut entry = Entry::new(&found.shown_name(), place, &terms, outcome);
        let known = self.files.get(&found.path);
        // Unless another file has its name by now.
        if let Some(known) = known.filter(|known| entry.bundle.is_none() && known.entry.name == entry.name) {
            entry.bundle.clone_from(&known.entry.bundle);
        }
        self.files.insert(found.path, File { entry, digest });
    }
}

fn unreadable(name: String, found: &Found, reason: String) -> PluginError {
    PluginError::Unreadable {
        name,
        path: found.path.display().to_string(),
        reason,
    }
}

/// Entries are the same one if they have the same name and place.
fn log_changes(before: &[Entry], after: &[Entry]) {
    let is_same = |entry: &Entry, wanted: &Entry| (&entry.name, &entry.place) == (&wanted.name, &wanted.place);
    let same = |entries: &[Entry], wanted: &Entry| entries.iter().find(|entry| is_same(entry, wanted)).cloned();
    let problem = |entry: &Entry| entry.problem.as_ref().map(ToString::to_string);
    for entry in after {
        let old = same(before, entry);
        let Entry {
            name, place, bundle, ..
        } = entry;
        let tools = bundle.as_ref().map_or(0, |bundle| bundle.tools().len());
        match (old.as_ref().and_then(|old| old.bundle.as_ref()), bundle) {
            (None, Some(_)) => tracing::info!(bundle = name, place, tools, "added a bundle"),
            (Some(old), Some(new)) if !Arc::ptr_eq(old, new) => {
                tracing::info!(bundle = name, place, tools, "replaced a bundle");
            }
            _ => {}
        }
        if problem(entry) != old.as_ref().and_then(problem) {
            log_problem(entry);
        }
    }
    for old in before.iter().filter(|entry| entry.bundle.is_some()) {
        if !after.iter().any(|entry| is_same(entry, old)) {
            tracing::info!(bundle = old.name, place = old.place, "removed a bundle");
        }
    }
}

fn log_problem(entry: &Entry) {
    let Entry {
        name,
        place,
        bundle,
        problem,
        ..
    } = entry;
    let Some(problem) = problem else {
        return;
    };
    // `Debug` keeps a guest's words on one line.
    let reason = problem.to_string();
    let advice = if let PluginError::Withheld(failure) = &**problem {
        Some(&failure.advice)
    } else {
        None
    };
    if bundle.is_some() {
        tracing::error!(
            bundle = name,
            place,
            ?reason,
            advice,
            "the new version of a bundle is no good: the old one stays"
        );
    } else {
        tracing::error!(bundle = name, place, ?reason, advice, "a bundle is left out");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Code, Component, ComponentSettings};
    use crate::plugins::cache::Cache;

    const TOOLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/postgres-tools.wasm"));
    const POLICY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/policy-default.wasm"));

    /// What the configuration says of the file `name`: that its tools have a prefix.
    fn configured(name: &str, prefix: &str) -> config::Bundle {
        config::Bundle {
            name: name.parse().expect("a name"),
            component: Component {
                code: Code::Folder,
                sha256: None,
                settings: ComponentSettings::default(),
            },
            terms: Terms {
                prefix: Some(prefix.parse().expect("a prefix")),
                ..Terms::default()
            },
        }
    }

    async fn load(runtime: &Runtime, path: PathBuf, configured: &[config::Bundle]) -> Bundles {
        let loaded = Bundles::load(runtime, Vec::new(), Some((path, configured.iter().collect())));
        loaded.await.expect("the configuration is good")
    }

    fn runtime() -> Runtime {
        Runtime::new(Cache::default()).expect("this machine runs WebAssembly")
    }

    /// Each bundle with how many tools it has, and what is wrong with it.
    fn state(bundles: &Bundles) -> Vec<(String, Option<usize>, String)> {
        let toolbox = bundles.toolbox();
        let state = toolbox.entries().iter().map(|entry| {
            let tools = entry.bundle.as_ref().map(|bundle| bundle.tools().len());
            let problem = entry.problem.as_ref().map(ToString::to_string).unwrap_or_default();
            // Up to the word of the runtime, or of this very folder.
            let problem = problem.split(": ").next().unwrap_or_default();
            (
                entry.name.clone(),
                tools,
                problem.split('@').next().unwrap_or_default().to_owned(),
            )
        });
        state.collect()
    }

    async fn reload(bundles: &Bundles) {
        let mut folder = bundles
            .folder
            .lock()
            .expect("no panic")
            .take()
            .expect("nobody watches it");
        folder.reload().await;
        *bundles.folder.lock().expect("no panic") = Some(folder);
    }

    fn is(name: &str, tools: impl Into<Option<usize>>, problem: &str) -> (String, Option<usize>, String) {
        (name.to_owned(), tools.into(), problem.to_owned())
    }

    #[tokio::test]
    async fn what_is_in_the_folder_is_taken_over_and_what_is_no_good_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (unfit, taken) = (
            "a is no component of the world dev-postgres:plugin/tool-bundle",
            "c offers the tool create_postgres_instance, which b offers already",
        );
        fs::write(at("b.wasm"), TOOLS).expect("a file");
        let bundles = load(&runtime(), folder.path().to_owned(), &[configured("a", "a")]).await;
        assert_eq!(state(&bundles), [is("b", 6, "")]);

        fs::write(at("a.wasm"), TOOLS).expect("a file");
        fs::write(at("c.wasm"), TOOLS).expect("a file");
        let offered = bundles.toolbox().offer();
        reload(&bundles).await;
        assert_eq!(state(&bundles), [is("a", 6, ""), is("b", 6, ""), is("c", None, taken)]);
        assert_ne!(bundles.toolbox().offer(), offered, "a's tools have other names");

        let before = bundles.toolbox();
        reload(&bundles).await;
        let served = |toolbox: &Toolbox, name: &str| toolbox.find(name).map(|(bundle, _)| std::ptr::from_ref(bundle));
        for name in ["list_postgres_instances", "a_list_postgres_instances"] {
            let (before, after) = (served(&before, name), served(&bundles.toolbox(), name));
            assert!(
                before.is_some() && before == after,
                "what is the same is not loaded again"
            );
        }

        fs::write(at("a.wasm"), POLICY).expect("written");
        fs::remove_file(at("b.wasm")).expect("removed");
        let offered = bundles.toolbox().offer();
        reload(&bundles).await;
        assert_eq!(state(&bundles), [is("a", 6, unfit), is("c", 6, "")]);
        assert_eq!(bundles.toolbox().offer(), offered, "c offers what b did");

        fs::remove_dir_all(folder.path()).expect("removed");
        reload(&bundles).await;
        assert_eq!(state(&bundles), []);
        assert_eq!(
            before.iter().count(),
            12,
            "whoever has the old ones may use them to the end"
        );
    }

    #[tokio::test]
    async fn a_name_is_free_at_once_when_the_bundle_that_had_it_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.wasm"), POLICY).expect("a file");
        fs::write(at("b.wasm"), TOOLS).expect("a file");
        let bundles = load(&runtime(), folder.path().to_owned(), &[]).await;
        assert_eq!(state(&bundles)[1], is("b", 6, ""));
        fs::write(at("a.wasm"), TOOLS).expect("written");
        fs::remove_file(at("b.wasm")).expect("removed");
        reload(&bundles).await;
        assert_eq!(state(&bundles), [is("a", 6, "")]);
    }

    #[tokio::test]
    async fn of_two_files_with_one_name_the_other_serves_when_the_first_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("my_tools.wasm"), TOOLS).expect("a file");
        let bundles = load(&runtime(), folder.path().to_owned(), &[]).await;
        assert_eq!(state(&bundles), [is("my-tools", 6, "")]);
        fs::write(at("my-tools.wasm"), TOOLS).expect("a file");
        reload(&bundles).await;
        let refused = "the component my_tools.wasm can't be read from ";
        let [first, second] = &state(&bundles)[..] else {
            panic!("two files");
        };
        assert_eq!(*first, is("my-tools", 6, ""));
        assert_eq!((second.0.as_str(), second.1), ("my_tools.wasm", None));
        assert!(second.2.starts_with(refused), "{second:?}");
        fs::remove_file(at("my-tools.wasm")).expect("it goes");
        reload(&bundles).await;
        assert_eq!(state(&bundles), [is("my-tools", 6, "")]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_is_not_to_be_believed_changes_nothing_and_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.wasm"), TOOLS).expect("a file");
        let bundles = load(&runtime(), folder.path().to_owned(), &[]).await;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
        fs::write(folder.path().join("a.wasm"), "nonsense").expect("written");
        reload(&bundles).await;
        let toolbox = bundles.toolbox();
        let problems: Vec<String> = toolbox
            .entries()
            .iter()
            .filter_map(|entry| Some(entry.problem.as_ref()?.to_string()))
            .collect();
        let expected = format!(
            "what is in {} is not loaded: every user of this machine may write to it",
            folder.path().display()
        );
        assert_eq!(problems, [expected]);
        assert_eq!(toolbox.iter().count(), 6);
    }
}
