//! Any bytes as a plugin's file.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dev_postgres_mcp_tests::fuzzed::component(bytes));
