//! What an instance takes of this machine: its processes, its control groups, its folder.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, Instant};

use super::instance_dir::InstanceDir;
use super::{limits, server};
use crate::engine::EngineError;
use crate::instance::{Share, Usage};

/// How far the two looks are apart between which CPU time is counted: the kernel counts in hundredths of a second.
const LOOKS_APART: Duration = Duration::from_millis(500);
/// How many files and folders are looked at to tell a folder's size. A new data directory has 1,000; each table adds three.
const ENTRIES_MAX: usize = 200_000;

/// Blocks for [`LOOKS_APART`].
pub(super) fn usage(folder: &InstanceDir) -> Result<Usage, EngineError> {
    let disk_bytes = disk_bytes(folder.path());
    let before = server::taken(folder)?;
    if before.is_empty() {
        return Ok(Usage {
            disk_bytes,
            ..Usage::default()
        });
    }
    let began = Instant::now();
    std::thread::sleep(LOOKS_APART);
    let after = server::taken(folder)?;
    let passed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    // What a process that has ended since has taken is lost; one that has begun since has taken all of it since.
    let cpu_ms = after
        .iter()
        .map(|(pid, now)| now.cpu_ms.saturating_sub(before.get(pid).map_or(0, |then| then.cpu_ms)));
    let in_groups = limits::usage(folder);
    Ok(Usage {
        cpu_millis: Some(Share {
            used: (cpu_ms.sum::<u64>() * 1000).checked_div(passed).unwrap_or_default(),
            limit: in_groups.cpu_millis_max,
        }),
        memory_bytes: Some(in_groups.memory_bytes.unwrap_or_else(|| Share {
            used: after.values().map(|process| process.memory_bytes).sum(),
            limit: None,
        })),
        disk_bytes,
    })
}

/// How much a folder takes with all that is in it; `None` if that is too much to look at. Links are not followed: anybody
/// who may run SQL can make them.
fn disk_bytes(folder: &Path) -> Option<u64> {
    let (mut folders, mut bytes, mut entries) = (vec![folder.to_owned()], 0, 0);
    while let Some(folder) = folders.pop() {
        // A running server's files come and go.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return None;
            }
            // Of a link, that of the link itself.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += on_disk(&metadata);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(bytes)
}

#[cfg(unix)]
fn on_disk(metadata: &Metadata) -> u64 {
    // Of 512 bytes each, whatever the file system's are.
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn on_disk(metadata: &Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_size_is_that_of_all_files_in_it_and_of_nothing_that_links_lead_to() {
        let (inside, outside) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        fs::write(outside.path().join("large"), vec![1; 4 << 20]).expect("a file");
        let deep = inside.path().join("a/b");
        fs::create_dir_all(&deep).expect("a folder");
        fs::write(deep.join("file"), vec![1; 1 << 20]).expect("a file");
        #[cfg(unix)]
        for target in [outside.path(), inside.path()] {
            let link = deep.join(target.file_name().expect("a name"));
            std::os::unix::fs::symlink(target, link).expect("a link");
        }
        let size = disk_bytes(inside.path()).expect("few files");
        assert!((1 << 20..2 << 20).contains(&size), "{size}");
        assert_eq!(disk_bytes(&inside.path().join("missing")), Some(0));
    }
}
