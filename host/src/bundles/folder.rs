//! The files of a folder of bundles. Others write to it, at any time.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::BundleName;
use crate::files;
use crate::plugins::FILE_BYTES_MAX;

/// How many bundles a folder may have: clients cope with some forty tools in all.
const FILES_MAX: usize = 40;

/// A file that is to be a bundle.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// The bundle's name, or why its own makes none.
    pub(super) name: Result<BundleName, String>,
}

impl Found {
    /// The bundle's name, or the file's.
    pub(super) fn shown_name(&self) -> String {
        match &self.name {
            Ok(name) => name.to_string(),
            Err(_) => self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// What ends in `.wasm`, in the order of its names; nothing where there is no folder. What begins with a dot is on its way
/// to another name.
///
/// # Errors
/// Why nothing in it is to be believed.
pub(super) fn list(folder: &Path) -> Result<Vec<Found>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    check_private(folder)?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || path.extension().is_none_or(|end| end != "wasm") {
            continue;
        }
        // Cargo names files with underscores.
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
        let name = stem.parse::<BundleName>();
        found.push(Found {
            name: name.map_err(|problem| format!("its name without .wasm {problem}")),
            path,
        });
        if found.len() > FILES_MAX {
            return Err(format!("it has more than {FILES_MAX} bundles"));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let mut taken = BTreeSet::new();
    for file in &mut found {
        if let Ok(name) = &file.name
            && !taken.insert(name.clone())
        {
            file.name = Err(format!("another file here has the name {name}, too"));
        }
    }
    Ok(found)
}

/// Whoever may write to it chooses the tools, and has the grants of every entry that has no file yet.
fn check_private(folder: &Path) -> Result<(), String> {
    check_not_open(&fs::metadata(folder).map_err(|error| error.to_string())?)
}

/// That not everybody may write to it.
fn check_not_open(metadata: &fs::Metadata) -> Result<(), String> {
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(metadata) & 0o002 != 0 {
        return Err("every user of this machine may write to it".into());
    }
    // Elsewhere the protection that it inherits has to do.
    #[cfg(not(unix))]
    let _ = metadata;
    Ok(())
}

/// All of a plain file. A link isn't followed: what it leads to may change with nobody being told.
///
/// # Errors
/// Why not.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    if is_link {
        return Err("it is a link, which is not followed".into());
    }
    let file = files::open_planted(path).map_err(|error| error.to_string())?;
    check_not_open(&file.metadata().map_err(|error| error.to_string())?)?;
    files::read_all(file, FILE_BYTES_MAX as u64).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let found = list(folder).expect("it is listed");
        found.iter().map(Found::shown_name).collect()
    }

    #[test]
    fn what_ends_in_wasm_and_is_not_hidden_is_a_bundle_named_after_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.wasm", "a-1.wasm", "README.md", ".c.wasm", "d.wasm.part", "wasm"] {
            fs::write(folder.path().join(name), "x").expect("a file");
        }
        assert_eq!(names(folder.path()), ["a-1", "b"]);
        fs::write(folder.path().join("myTools.wasm"), "x").expect("a file");
        let found = list(folder.path()).expect("it is listed");
        assert_eq!(
            found[2].name,
            Err("its name without .wasm must be 1 to 40 lower-case letters, digits and hyphens".into())
        );
        assert_eq!(found[2].shown_name(), "myTools.wasm");
        assert_eq!(names(&folder.path().join("nowhere")), Vec::<String>::new());
    }

    #[test]
    fn cargos_underscores_are_hyphens_and_no_two_files_are_one_bundle() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["my-tools.wasm", "my_tools.wasm", "own_tools.wasm"] {
            fs::write(folder.path().join(name), "x").expect("a file");
        }
        let found = list(folder.path()).expect("it is listed");
        assert_eq!(
            found[1].name,
            Err("another file here has the name my-tools, too".into())
        );
        assert_eq!(names(folder.path()), ["my-tools", "my_tools.wasm", "own-tools"]);
    }

    #[test]
    fn a_folder_with_too_many_bundles_is_refused_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..=FILES_MAX {
            fs::write(folder.path().join(format!("{number}.wasm")), "x").expect("a file");
        }
        assert_eq!(
            list(folder.path()).expect_err("too many"),
            "it has more than 40 bundles"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_everybody_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
        assert_eq!(
            list(folder.path()).expect_err("anybody may have written it"),
            "every user of this machine may write to it"
        );
    }

    #[test]
    fn a_file_is_read_whole_and_one_that_is_too_large_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.wasm");
        fs::write(&path, "whole").expect("a file");
        assert_eq!(read(&path).expect("readable"), b"whole");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("the file");
        file.set_len(FILE_BYTES_MAX as u64 + 1).expect("a file with a hole");
        assert_eq!(
            read(&path).expect_err("too large"),
            "it has 67108865 bytes, may have 67108864"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_folders_and_pipes_are_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.wasm"), "x").expect("a file");
        std::os::unix::fs::symlink(at("a.wasm"), at("link.wasm")).expect("a link");
        assert_eq!(
            read(&at("link.wasm")).expect_err("a link"),
            "it is a link, which is not followed"
        );
        fs::create_dir(at("folder.wasm")).expect("a folder");
        assert_eq!(read(&at("folder.wasm")).expect_err("a folder"), "is no plain file");
        let made = std::process::Command::new("mkfifo").arg(at("pipe.wasm")).status();
        assert!(made.expect("it runs").success());
        // Nobody writes to it: whoever waited for that would wait for ever.
        assert_eq!(read(&at("pipe.wasm")).expect_err("a pipe"), "is no plain file");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_everybody_may_write_to_is_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.wasm");
        fs::write(&path, "x").expect("a file");
        for (mode, expected) in [
            (0o664, Ok(b"x".to_vec())),
            (0o666, Err("every user of this machine may write to it".to_owned())),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(read(&path), expected);
        }
    }
}
