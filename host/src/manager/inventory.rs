//! What there is, for policies that count: what the engine lists, and what this process is just creating.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use crate::engine::Engine;
use crate::failure::Failure;
use crate::instance::{InstanceId, Owner};
use crate::policy::{Holding, Inventory};

/// The creates that are under way in this process, in the order in which they began.
///
/// Of two that are planned at once, the second sees the first, so that both don't take the last place.
#[derive(Debug, Clone, Default)]
// A std mutex: held for a few instructions, never across a wait.
pub(super) struct Beginnings(Arc<Mutex<Vec<(u64, Holding)>>>);

/// One of them, for as long as it is under way.
#[derive(Debug)]
pub(super) struct Beginning {
    all: Beginnings,
    number: u64,
}

impl Beginnings {
    /// A create begins; and what its policy is to see.
    pub(super) fn begin(&self, owner: &Owner, engine: &Arc<dyn Engine>) -> (Beginning, Arc<dyn Inventory>) {
        let inventory = self.inventory(engine);
        let mut all = self.lock();
        let number = all.last().map_or(0, |(last, _)| last + 1);
        let holding = Holding {
            id: InstanceId::random(),
            owner: Some(owner.clone()),
            created_at: SystemTime::now(),
        };
        all.push((number, holding));
        drop(all);
        let beginning = Beginning {
            all: self.clone(),
            number,
        };
        (beginning, inventory)
    }

    /// What there is by now.
    pub(super) fn inventory(&self, engine: &Arc<dyn Engine>) -> Arc<dyn Inventory> {
        Arc::new(Known {
            engine: Arc::clone(engine),
            begun: self.lock().iter().map(|(_, holding)| holding.clone()).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Holding)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beginning {
    /// The instance that it makes has this id: the engine may list it from now on.
    pub(super) fn becomes(&self, id: InstanceId) {
        for (_, holding) in self.all.lock().iter_mut().filter(|(number, _)| *number == self.number) {
            holding.id = id;
        }
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.all.lock().retain(|(number, _)| *number != self.number);
    }
}

struct Known {
    engine: Arc<dyn Engine>,
    begun: Vec<Holding>,
}

#[async_trait]
impl Inventory for Known {
    async fn holdings(&self) -> Result<Vec<Holding>, Failure> {
        let listed = self.engine.list_all().await.map_err(|error| Failure::from(&error))?;
        let mut holdings: Vec<Holding> = listed
            .into_iter()
            .map(|instance| Holding {
                id: instance.id,
                owner: instance.owner,
                created_at: instance.created_at,
            })
            .collect();
        for begun in &self.begun {
            if holdings.iter().all(|holding| holding.id != begun.id) {
                holdings.push(begun.clone());
            }
        }
        Ok(holdings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::Status;

    fn owner() -> Owner {
        Owner {
            process: "scope.process".into(),
            machine: "laptop".into(),
            process_id: 4711,
            started_at: None,
            team: None,
            client: None,
        }
    }

    async fn ids(inventory: &Arc<dyn Inventory>) -> Vec<InstanceId> {
        let holdings = inventory.holdings().await.expect("told");
        holdings.iter().map(|holding| holding.id).collect()
    }

    #[tokio::test]
    async fn a_create_sees_those_that_began_before_it_and_not_itself() {
        let (engine, there) = FakeEngine::default().with_instance(Status::Running);
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let beginnings = Beginnings::default();
        let (first, seen_by_first) = beginnings.begin(&owner(), &engine);
        let (_second, seen_by_second) = beginnings.begin(&owner(), &engine);
        assert_eq!(ids(&seen_by_first).await, [there]);
        assert_eq!(ids(&seen_by_second).await.len(), 2);
        // Once the engine lists what the first makes, it isn't counted twice.
        first.becomes(there);
        let (_third, seen_by_third) = beginnings.begin(&owner(), &engine);
        assert_eq!(ids(&seen_by_third).await.len(), 2, "the one there, and the second");
        drop(first);
        assert_eq!(ids(&beginnings.inventory(&engine)).await.len(), 3);
    }
}
