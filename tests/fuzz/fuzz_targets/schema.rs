//! Any schemas of a tool, and any arguments for it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dev_postgres_mcp_tests::fuzzed::schema(bytes));
