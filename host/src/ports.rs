//! Which host ports instances may have, and which of them this process has given out.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use rand::seq::SliceRandom;

use crate::instance::{InvalidValue, Port};

/// The ports that instances may have, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// # Errors
    /// If `last` comes before `first`.
    pub fn new(first: Port, last: Port) -> Result<Self, InvalidValue> {
        if last < first {
            return Err(InvalidValue(format!("{first}-{last} runs backwards")));
        }
        Ok(Self { first, last })
    }

    fn ports(self) -> impl Iterator<Item = Port> {
        (self.first.get()..=self.last.get()).filter_map(|number| Port::try_from(number).ok())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = || InvalidValue("must be two ports with a hyphen between them, such as 15432-25432".into());
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let port = |text: &str| text.trim().parse::<Port>().map_err(|_| wrong());
        Self::new(port(first)?, port(last)?)
    }
}

/// Every port of the range is given out or refused by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every port of {range} is taken")]
pub struct PortsExhausted {
    /// The range that was tried.
    pub range: PortRange,
}

/// Chooses ports. The engine's own bind is the arbiter: a choice only has to be likely free, and random choices keep
/// processes that create at once apart.
#[derive(Debug, Clone)]
pub struct PortAllocator {
    range: PortRange,
    // A std mutex: held for a few instructions, never across a wait.
    leased: Arc<Mutex<HashSet<Port>>>,
}

impl PortAllocator {
    /// Gives out the ports of `range`.
    #[must_use]
    pub fn new(range: PortRange) -> Self {
        Self {
            range,
            leased: Arc::default(),
        }
    }

    /// The range in a random order, to be tried one by one until the engine takes one.
    pub fn candidates(&self, rng: &mut impl Rng) -> Candidates {
        let mut order: Vec<Port> = self.range.ports().collect();
        order.shuffle(rng);
        Candidates {
            allocator: self.clone(),
            order,
        }
    }

    fn lease(&self, port: Port) -> Option<PortLease> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.insert(port).then(|| PortLease {
            port,
            leased: Arc::clone(&self.leased),
        })
    }
}

/// The ports that one create has not tried yet.
#[derive(Debug)]
pub struct Candidates {
    allocator: PortAllocator,
    order: Vec<Port>,
}

impl Candidates {
    /// A port that nobody else in this process is trying.
    ///
    /// # Errors
    /// When all have been tried.
    pub fn next_lease(&mut self) -> Result<PortLease, PortsExhausted> {
        while let Some(port) = self.order.pop() {
            if let Some(lease) = self.allocator.lease(port) {
                return Ok(lease);
            }
        }
        Err(PortsExhausted {
            range: self.allocator.range,
        })
    }
}

/// A port that only its holder tries to publish on; dropping it gives the port back.
#[derive(Debug)]
pub struct PortLease {
    port: Port,
    leased: Arc<Mutex<HashSet<Port>>>,
}

impl PortLease {
    /// The port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.leased
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.port);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn range(text: &str) -> PortRange {
        text.parse().expect("a range")
    }

    #[test]
    fn a_range_is_two_ports_in_order() {
        assert_eq!(range("15432-25432").to_string(), "15432-25432");
        for wrong in ["", "15432", "0-1", "2-1", "1-70000", "a-b", "1-2-3"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn every_port_is_offered_once_and_then_the_range_is_exhausted() {
        let allocator = PortAllocator::new(range("5000-5009"));
        let mut candidates = allocator.candidates(&mut StdRng::seed_from_u64(1));
        let mut leases = Vec::new();
        for _ in 0..10 {
            leases.push(candidates.next_lease().expect("a port is left"));
        }
        let mut ports: Vec<u16> = leases.iter().map(|lease| lease.port().get()).collect();
        ports.sort_unstable();
        assert_eq!(ports, (5000..=5009).collect::<Vec<_>>());
        assert_eq!(
            candidates.next_lease().expect_err("none is left").to_string(),
            "every port of 5000-5009 is taken"
        );
    }

    #[test]
    fn a_leased_port_is_offered_to_nobody_else_until_it_is_given_back() {
        let allocator = PortAllocator::new(range("5000-5000"));
        let rng = &mut StdRng::seed_from_u64(1);
        let lease = allocator.candidates(rng).next_lease().expect("the port is free");
        assert!(allocator.candidates(rng).next_lease().is_err());
        drop(lease);
        assert!(allocator.candidates(rng).next_lease().is_ok());
    }
}
