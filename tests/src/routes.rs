//! What Docker is asked, by routes, and what is to go wrong there.

use std::collections::{HashMap, VecDeque};

/// Stands for every route that has no fault of its own.
pub const ANY: &str = "*";

/// The method and the route: the path with every id and name replaced by `*`.
#[must_use]
pub fn route(method: &str, path: &str) -> String {
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["images", _, .., "json"] => parts = vec!["images", "*", "json"],
        ["containers" | "exec" | "networks", name, ..] if !matches!(*name, "json" | "create") => parts[1] = "*",
        _ => {}
    }
    format!("{method} /{}", parts.join("/"))
}

/// Faults by route.
#[derive(Debug)]
pub struct Faults<F> {
    /// Each for one request.
    queued: HashMap<String, VecDeque<F>>,
    /// For every request.
    lasting: HashMap<String, F>,
    met: usize,
}

impl<F> Default for Faults<F> {
    fn default() -> Self {
        Self {
            queued: HashMap::new(),
            lasting: HashMap::new(),
            met: 0,
        }
    }
}

impl<F: Clone> Faults<F> {
    /// The next request of `route` (`POST /containers/*/start`) meets this one; several queue up.
    pub fn once(&mut self, route: &str, fault: F) {
        self.queued.entry(route.into()).or_default().push_back(fault);
    }

    /// Every request of `route` meets this one.
    pub fn always(&mut self, route: &str, fault: F) {
        self.lasting.insert(route.into(), fault);
    }

    /// No request meets any from now on.
    pub fn lift(&mut self) {
        self.queued.clear();
        self.lasting.clear();
    }

    /// How many requests have met one.
    #[must_use]
    pub fn met(&self) -> usize {
        self.met
    }

    /// The one that a request of `route` meets.
    pub fn meet(&mut self, route: &str) -> Option<F> {
        let queued = self.queued.get_mut(route).and_then(VecDeque::pop_front);
        let fault = queued.or_else(|| self.lasting.get(route).or_else(|| self.lasting.get(ANY)).cloned());
        self.met += usize::from(fault.is_some());
        fault
    }
}
