//! Randomness that can be had again: every random test begins here and prints its seed.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The variable that gives a seed again.
const SEED_VARIABLE: &str = "DEV_POSTGRES_MCP_TEST_SEED";

/// Random numbers from the seed in `DEV_POSTGRES_MCP_TEST_SEED`, or from one that nobody has had before.
///
/// # Panics
/// If the variable holds something else than a number.
#[must_use]
pub fn rng() -> StdRng {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::random(),
    };
    // Shown of a test that fails.
    eprintln!("{SEED_VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}
