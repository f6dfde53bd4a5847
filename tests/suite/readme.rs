//! What the documents say is so.

use std::fs;
use std::path::Path;

use dev_postgres_mcp::cli;
use dev_postgres_mcp::config::{CONFIG_VARIABLE, Config, Flags, KEYS};
use dev_postgres_mcp::environment::Environment;
use dev_postgres_mcp_tests::readme::{repository, rewrite, sections};
use serde_json::Value;

const DOCUMENTS: [&str; 5] = [
    "README.md",
    ".github/CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "plugins/README.md",
];

/// A fenced block: its language and its text.
type Snippet = (String, String);

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn snippets(document: &str) -> Vec<Snippet> {
    let mut snippets = Vec::new();
    let mut open: Option<Snippet> = None;
    for line in document.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => snippets.extend(open.take()),
            (None, Some((_, text))) => text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block doesn't end");
    snippets
}

fn snippets_in(language: &str) -> Vec<String> {
    let all = DOCUMENTS.iter().flat_map(|path| snippets(&read(path)));
    let found: Vec<String> = all.filter(|(of, _)| of == language).map(|(_, text)| text).collect();
    assert!(!found.is_empty(), "no document has a snippet in {language}");
    found
}

/// The commands of the snippets for a shell, without the rest of a pipeline and without comments.
fn commands() -> Vec<Vec<String>> {
    let words = |line: &str| {
        let end = line.find(['|', '#', '>']).unwrap_or(line.len());
        line[..end].split_whitespace().map(str::to_owned).collect()
    };
    snippets_in("sh")
        .iter()
        .flat_map(|text| text.lines())
        .map(words)
        .collect()
}

#[tokio::test]
async fn the_readmes_generated_sections_are_current() {
    let sections = sections().await.expect("the built-in components load");
    let rewritten = rewrite(&read("README.md"), &sections).expect("the markers match");
    assert!(
        rewritten.stale.is_empty(),
        "not current: {}; run `make docs`",
        rewritten.stale.join(", ")
    );
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    for path in DOCUMENTS {
        let document = read(path);
        for target in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => repository(path),
                file => repository(path).parent().unwrap_or(Path::new("")).join(file),
            };
            assert!(file.exists(), "{path} links to {target}, which isn't there");
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).expect("a document");
                let headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(
                    headings.into_iter().any(|known| known == heading),
                    "{path} links to {target}, but there is no such heading"
                );
            }
        }
    }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn configuration_snippets_are_configurations() {
    for text in snippets_in("toml") {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.toml");
        fs::write(&path, &text).expect("a file");
        let flags = Flags {
            file: Some(path),
            settings: Vec::new(),
        };
        if let Err(error) = Config::load(&flags, &Environment::default()) {
            panic!("{text}\n{error}");
        }
    }
}

#[test]
fn client_snippets_start_this_server() {
    let mut servers = 0;
    for text in snippets_in("json") {
        let snippet: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        for (_, server) in ["mcpServers", "servers"]
            .iter()
            .filter_map(|key| snippet[key].as_object())
            .flatten()
        {
            servers += 1;
            assert_eq!(server["command"], "dev-postgres-mcp");
            let arguments = server["args"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|word| word.as_str().expect("text"));
            understood(&["dev-postgres-mcp"].into_iter().chain(arguments).collect::<Vec<_>>());
            for (name, value) in server["env"].as_object().into_iter().flatten() {
                let environment = [(name, value.as_str().expect("text"))].into_iter().collect();
                let flags = Flags {
                    file: None,
                    settings: Vec::new(),
                };
                Config::load(&flags, &environment).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
    assert!(servers > 0, "no snippet starts a server");
}

#[test]
fn commands_are_ones_that_the_program_has() {
    for words in commands() {
        let program = words.iter().position(|word| word == "dev-postgres-mcp");
        if let Some(program) = program.filter(|&at| words.get(at + 1).is_some()) {
            understood(&words[program..].iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

fn understood(words: &[&str]) {
    if let Err(error) = cli::command().try_get_matches_from(words) {
        assert!(!error.use_stderr(), "{words:?}: {error}");
    }
}

#[test]
fn make_targets_are_there() {
    let makefile = read("Makefile");
    for words in commands()
        .iter()
        .filter(|words| words.first().is_some_and(|word| word == "make"))
    {
        for target in &words[1..] {
            let rule = format!("{target}:");
            assert!(
                makefile.lines().any(|line| line.starts_with(&rule)),
                "there is no make {target}"
            );
        }
    }
}

#[test]
fn environment_variables_are_ones_that_the_program_reads() {
    for path in DOCUMENTS {
        let document = read(path);
        for (at, _) in document.match_indices("DEV_POSTGRES_MCP_") {
            let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let end = document[at..].find(|c| !is_part(c)).unwrap_or(document.len() - at);
            let name = &document[at..at + end];
            let is_read = name == CONFIG_VARIABLE || KEYS.iter().any(|key| key.variable == name);
            assert!(is_read, "{path} has {name}, which nobody reads");
        }
    }
}

#[test]
fn ci_builds_with_the_oldest_rust_that_is_promised() {
    let manifest = read("Cargo.toml");
    let promised = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("Cargo.toml names it");
    let workflow = read(".github/workflows/ci.yml");
    assert!(workflow.contains(&format!("RUSTUP_TOOLCHAIN: {promised}\n")));
}
