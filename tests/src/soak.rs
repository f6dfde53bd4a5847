//! How much a test does: what fits into CI, or what `make soak` takes the time for.

use std::fmt::Debug;

/// The variable that has tests do all of it.
const SOAK_VARIABLE: &str = "DEV_POSTGRES_MCP_TEST_SOAK";

/// A size: `ci`, or `full` if `DEV_POSTGRES_MCP_TEST_SOAK` is 1. It is printed, so that a log says what was done.
///
/// # Panics
/// If the variable holds something else than 0 or 1.
#[must_use]
pub fn size<T: Debug>(ci: T, full: T) -> T {
    let size = if is_full() { full } else { ci };
    // Shown of a test that fails, and by `make soak`.
    eprintln!("size {size:?}");
    size
}

/// Whether tests do all of it, one by one.
///
/// # Panics
/// As [`size`].
#[must_use]
pub fn is_full() -> bool {
    match std::env::var(SOAK_VARIABLE).as_deref() {
        Ok("1") => true,
        Ok("0" | "") | Err(_) => false,
        Ok(other) => panic!("{SOAK_VARIABLE} is {other}, neither 0 nor 1"),
    }
}
