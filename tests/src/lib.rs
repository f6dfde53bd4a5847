//! Support for the suite: what stands in for the outside world, and what starts the real one.

pub mod guests;
pub mod readme;
