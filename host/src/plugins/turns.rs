//! Whose turn it is to compute: guests that compute for long leave a core to everything else.

use std::num::NonZero;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one runtime: one for each core but one, or one where there is one core.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::of(cores.saturating_sub(1).max(1))
    }

    fn of(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }
}

/// The turn of one call. A short call needs none; a longer one has one from its first tick on, and ends it at the next tick,
/// when it waits, and when it is over.
#[derive(Debug, Clone, Default)]
// A std mutex: held for a few instructions, never across a wait.
pub(super) struct Turn(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Turn {
    /// Lets others have theirs, and waits for the next one, in the order in which that was asked for.
    pub(super) fn next(&self, turns: &Turns) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.end();
        let (turn, turns) = (self.clone(), Arc::clone(&turns.0));
        Box::pin(async move {
            tokio::task::yield_now().await;
            // They are never closed.
            if let Ok(permit) = turns.acquire_owned().await {
                *turn.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
            }
        })
    }

    /// Ends the turn, if it has one.
    pub(super) fn end(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn as_many_have_a_turn_as_there_are_and_the_next_one_gets_it_when_one_ends() {
        let turns = Turns::of(1);
        let [one, other, third] = [Turn::default(), Turn::default(), Turn::default()];
        one.next(&turns).await;
        let mut waiting = Box::pin(other.next(&turns));
        let mut behind = Box::pin(third.next(&turns));
        for _ in 0..2 {
            assert!((&mut waiting).now_or_never().is_none());
            assert!((&mut behind).now_or_never().is_none());
        }
        one.end();
        assert!((&mut behind).now_or_never().is_none(), "it asked later");
        waiting.await;
        // Whoever is dropped in its turn ends it.
        drop(other);
        behind.await;
        assert!(one.next(&turns).now_or_never().is_none());
        third.end();
        third.next(&turns).await;
    }
}
