//! Any schemas of a tool, and any arguments for it.

#![no_main]

use dev_postgres_mcp_tests::fuzzed;

libfuzzer_sys::fuzz_target!(
    init: fuzzed::prepare(),
    |bytes: &[u8]| fuzzed::schema(bytes)
);
