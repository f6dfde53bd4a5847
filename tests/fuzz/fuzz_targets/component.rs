//! Any bytes as a plugin's file.

#![no_main]

use dev_postgres_mcp_tests::fuzzed;

libfuzzer_sys::fuzz_target!(
    init: fuzzed::prepare(),
    |bytes: &[u8]| fuzzed::component(bytes)
);
