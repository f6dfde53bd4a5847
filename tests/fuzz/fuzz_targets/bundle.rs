//! Anything that a bundle asks the host for, and answers.

#![no_main]

use dev_postgres_mcp_tests::fuzzed;

libfuzzer_sys::fuzz_target!(
    init: fuzzed::prepare(),
    |bytes: &[u8]| fuzzed::bundle(bytes)
);
