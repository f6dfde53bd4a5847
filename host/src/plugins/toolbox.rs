//! What has become of all bundles: which tool answers to which name, and which bundle is missing and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PluginError;
use super::bundle::{Bundle, Terms};
use super::provenance::{Provenance, State};
use super::tools::Tool;
use crate::digest::Digest;

/// A bundle that there should be, and what has become of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name; that of its file, where that is no name for a bundle.
    pub name: String,
    /// Where its code is, for people.
    pub place: String,
    /// On what terms it is taken in.
    pub terms: Terms,
    /// The one that is served; `None` if there has been no good one.
    pub bundle: Option<Arc<Bundle>>,
    /// Why it is not what is in its place now.
    pub problem: Option<Arc<PluginError>>,
}

impl Entry {
    /// One that was loaded, or was not.
    #[must_use]
    pub fn new(name: &str, place: String, terms: &Terms, outcome: Result<Bundle, PluginError>) -> Self {
        let (bundle, problem) = match outcome {
            Ok(bundle) => (Some(Arc::new(bundle)), None),
            Err(problem) => (None, Some(Arc::new(problem))),
        };
        Self {
            name: name.to_owned(),
            place,
            terms: terms.clone(),
            bundle,
            problem,
        }
    }

    /// Where it comes from, what it may do, how it stands.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let reason = self.problem.as_ref().map(ToString::to_string);
        match (&self.bundle, reason) {
            (Some(bundle), None) => bundle.provenance(),
            (Some(bundle), Some(reason)) => {
                let mut provenance = bundle.provenance();
                if provenance.state == State::Serving {
                    provenance.state = State::Outdated(reason);
                }
                provenance
            }
            (None, reason) => Provenance {
                name: self.name.clone(),
                world: "tool-bundle",
                from: self.place.clone(),
                sha256: None,
                grants: self.terms.grants,
                mode: None,
                may_change: None,
                budget: self.terms.budget,
                tools: Vec::new(),
                state: State::Refused(reason.unwrap_or_default()),
            },
        }
    }
}

/// All bundles, and every tool by its name. It never changes: another takes its place.
#[derive(Debug)]
pub struct Toolbox {
    entries: Vec<Entry>,
    by_name: BTreeMap<String, (Arc<Bundle>, usize)>,
    offer: Digest,
}

impl Toolbox {
    /// Of two tools with the same name, the one that comes later is left out: look for a [`collision`] before.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut by_name: BTreeMap<String, (Arc<Bundle>, usize)> = BTreeMap::new();
        for bundle in entries.iter().filter_map(|entry| entry.bundle.as_ref()) {
            for (index, tool) in bundle.tools().iter().enumerate() {
                let name = tool.name().to_owned();
                by_name.entry(name).or_insert_with(|| (Arc::clone(bundle), index));
            }
        }
        let tools = by_name
            .values()
            .filter_map(|(bundle, index)| bundle.tools().get(*index));
        let lines: Vec<String> = tools.map(|tool| format!("{} {}", tool.name(), tool.digest())).collect();
        let offer = lines.join("\n");
        Self {
            offer: Digest::of(offer.as_bytes()),
            entries,
            by_name,
        }
    }

    /// All bundles, the missing ones too; those that the configuration names first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All tools, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Bundle, &Tool)> {
        self.by_name
            .values()
            .filter_map(|(bundle, index)| Some((&**bundle, bundle.tools().get(*index)?)))
    }

    /// The tool of that name and the bundle that offers it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(&Bundle, &Tool)> {
        let (bundle, index) = self.by_name.get(name)?;
        Some((bundle, bundle.tools().get(*index)?))
    }

    /// The digest of all that clients see of the tools: two toolboxes with the same one look the same to them.
    #[must_use]
    pub fn offer(&self) -> Digest {
        self.offer
    }
}

/// Whether a bundle has a tool whose name is another's, be it among `others` or one of its own.
#[must_use]
pub fn collision<'a>(bundle: &Bundle, others: impl Iterator<Item = &'a Entry>) -> Option<PluginError> {
    let others: Vec<&Bundle> = others.filter_map(|entry| entry.bundle.as_deref()).collect();
    let mut own = BTreeSet::new();
    bundle.tools().iter().find_map(|tool| {
        let has_it = |other: &&&Bundle| other.tools().iter().any(|its| its.name() == tool.name());
        let other = others.iter().find(has_it).copied();
        let other = other.or_else(|| (!own.insert(tool.name())).then_some(bundle))?;
        Some(PluginError::Collision {
            name: bundle.name().to_owned(),
            tool: tool.name().to_owned(),
            other: other.name().to_owned(),
        })
    })
}
