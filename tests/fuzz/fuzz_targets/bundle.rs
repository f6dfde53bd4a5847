//! Anything that a bundle asks the host for, and answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dev_postgres_mcp_tests::fuzzed::bundle(bytes));
