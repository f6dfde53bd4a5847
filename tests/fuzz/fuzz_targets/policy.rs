//! Any answers of a policy to any request.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dev_postgres_mcp_tests::fuzzed::policy(bytes));
