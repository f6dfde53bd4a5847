//! Any answers of a policy to any request.

#![no_main]

use dev_postgres_mcp_tests::fuzzed;

libfuzzer_sys::fuzz_target!(
    init: fuzzed::prepare(),
    |bytes: &[u8]| fuzzed::policy(bytes)
);
