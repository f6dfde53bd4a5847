//! What `make fuzz` begins with, and what it once failed on, tried like everything else; and what chance makes of it.

use std::fs;
use std::path::PathBuf;

use dev_postgres_mcp_tests::fuzzed::TARGETS;
use dev_postgres_mcp_tests::readme::repository;
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::soak;
use rand::RngExt;
use rand::rngs::StdRng;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = repository("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).expect("a file")).collect()
}

/// An input with a few changes: bytes that are others, gone, or there twice.
fn changed(input: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => {
                bytes.remove(at);
            }
            _ => {
                let end = rng.random_range(at..=bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}

/// Where the input is that a target is trying, for the corpus if it fails: a stack that overflows ends the process at once.
fn tried(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{target}"))
}

fn attempt(target: &str, run: fn(&[u8]), input: &[u8]) {
    fs::write(tried(target), input).expect("a file");
    run(input);
}

#[test]
fn the_fuzzers_corpus_and_its_neighbours_find_nothing_wrong() {
    let rounds = soak::size(10, 2000);
    let mut rng = seeded::rng();
    for (target, run) in TARGETS {
        let (begun, mut inputs) = (std::time::Instant::now(), 0);
        eprintln!("what fails is in {}", tried(target).display());
        for input in corpus(target) {
            attempt(target, run, &input);
            for _ in 0..rounds {
                attempt(target, run, &changed(&input, &mut rng));
            }
            inputs += 1 + rounds;
        }
        fs::remove_file(tried(target)).expect("it was written");
        eprintln!("{target}: {inputs} inputs in {:?}", begun.elapsed());
    }
}
