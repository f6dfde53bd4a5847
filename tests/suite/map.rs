//! The map of the code in `host/src/lib.rs` is complete, and each outside thing is known where it says so only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dev_postgres_mcp_tests::readme::repository;

/// The crates behind which the outside world is, and the files that may know them, by how their paths begin.
const KNOWN_BY: [(&str, &[&str]); 15] = [
    ("bollard", &["engine/docker"]),
    ("clap", &["cli"]),
    ("docker_credential", &["artifact/credentials.rs"]),
    ("landlock", &["engine/local/confine.rs"]),
    ("nix", &["engine/local", "failpoint.rs", "owner.rs", "plugins/cache.rs"]),
    ("notify", &["bundles/watch.rs"]),
    (
        "oci_client",
        &[
            "artifact/credentials.rs",
            "artifact/reference.rs",
            "artifact/registry.rs",
        ],
    ),
    ("rmcp", &["mcp"]),
    ("seccompiler", &["engine/local/confine.rs"]),
    ("sysinfo", &["engine/local/server.rs", "memory.rs", "owner.rs"]),
    ("tokio_postgres", &["engine/provision.rs", "probe.rs", "sql.rs"]),
    ("wasmtime", &["plugins"]),
    ("wasmparser", &["plugins/encode.rs", "plugins/inspect.rs"]),
    ("wit_component", &["plugins/encode.rs", "plugins/inspect.rs"]),
    (
        "wit_parser",
        &["plugins/check.rs", "plugins/encode.rs", "plugins/inspect.rs"],
    ),
];

/// Every file below a folder that somebody wrote, with its path from there.
fn files(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, &format!("{prefix}{name}/"), found);
        } else if path.extension().is_none_or(|end| end != "snap") {
            found.insert(format!("{prefix}{name}"));
        }
    }
}

fn sources() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    files(&repository("host/src"), "", &mut found);
    found
}

/// The first column of the map; a name without a folder is in that of the name before it.
fn mapped() -> Vec<String> {
    let library = fs::read_to_string(repository("host/src/lib.rs")).expect("the library");
    let rows = library.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.flat_map(|row| {
        let names = row.split(" | ").next().unwrap_or_default().split("`, `");
        names
            .scan(String::new(), |folder, name| {
                let name = name.trim_end_matches('`');
                if let Some((of_name, _)) = name.rsplit_once('/') {
                    *folder = format!("{of_name}/");
                    return Some(name.to_owned());
                }
                Some(format!("{folder}{name}"))
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_file_is_on_the_map_and_the_map_has_no_others() {
    let (sources, mapped) = (sources(), mapped());
    let is_at = |place: &str, file: &str| match place.strip_suffix("*.rs") {
        Some(folder) => file.starts_with(folder),
        None => file == place,
    };
    for file in sources.iter().filter(|file| *file != "lib.rs") {
        assert!(
            mapped.iter().any(|place| is_at(place, file)),
            "{file} is not on the map"
        );
    }
    for place in &mapped {
        assert!(
            sources.iter().any(|file| is_at(place, file)),
            "{place} is on the map only"
        );
    }
}

#[test]
fn each_outside_thing_is_known_in_one_place() {
    for file in sources()
        .iter()
        .filter(|file| Path::new(file).extension().is_some_and(|end| end == "rs"))
    {
        let text = fs::read_to_string(repository("host/src").join(file)).expect("a source");
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let is_known = |name: &str| {
            // Not as the end of a longer word: `unix::` isn't nix.
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let path = format!("{name}::");
            code.iter()
                .any(|line| line.match_indices(&path).any(|(at, _)| !line[..at].ends_with(is_part)))
        };
        for (name, places) in KNOWN_BY {
            assert!(
                places.iter().any(|place| file.starts_with(place)) || !is_known(name),
                "{file} knows {name}, which is for {} alone",
                places.join(" and ")
            );
        }
    }
}
