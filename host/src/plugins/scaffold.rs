//! The files that a new plugin begins with: they build, and what they build passes its own check.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::versions::World;
use crate::instance::InvalidValue;

/// The longest name in characters: it also names the plugin's tool.
const NAME_CHARS_MAX: usize = 40;

/// What a crate can't be named: Rust's own crates, and those that the scaffold depends on.
const TAKEN: [&str; 8] = [
    "alloc",
    "core",
    "proc-macro",
    "serde",
    "serde-json",
    "std",
    "test",
    "wit-bindgen",
];

/// A new plugin's name: lower-case letters, digits and single hyphens, a letter first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as crates, modules and tools have it.
    #[must_use]
    pub fn in_snake_case(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refused = |reason: String| Err(InvalidValue(reason));
        let words_fit = text.split('-').all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        if !words_fit || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
            return refused("must be lower-case letters, digits and single hyphens, and begin with a letter".into());
        }
        if text.len() > NAME_CHARS_MAX {
            return refused(format!(
                "must have at most {NAME_CHARS_MAX} characters, has {}",
                text.len()
            ));
        }
        if TAKEN.contains(&text) {
            return refused(format!("must not be {text}: a crate that every plugin has is named so"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What plugins can be written in from a scaffold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Built by cargo alone.
    Rust,
    /// Built by componentize-py.
    Python,
    /// Built by componentize-js.
    JavaScript,
}

impl Language {
    /// Every language, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::JavaScript];

    /// As the command line has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }
}

/// What a new plugin is.
#[derive(Debug, Clone)]
pub struct Scaffold {
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub world: World,
    /// What it is written in.
    pub language: Language,
}

/// Why there is no new plugin. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// There is something already.
    #[error("{} is there already and isn't an empty folder", .0.display())]
    Occupied(PathBuf),
    /// The file system refuses.
    #[error("{} can't be written: {error}", path.display())]
    Unwritable {
        /// What should have been written.
        path: PathBuf,
        /// The operating system's word.
        error: io::Error,
    },
}

/// A file of a template: where it goes, and what it holds.
type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($path:literal),+) => {
        &[$(($path, include_str!(concat!("../../templates/", $folder, "/", $path)))),+]
    };
}

const LOCK: &str = "Cargo.lock";
const WIT: File = ("wit/plugin.wit", include_str!("../../../wit/0.2.0/plugin.wit"));
const RUST: &[File] = files!("rust": ".gitignore", "Cargo.lock", "Cargo.toml");
const RUST_TOOL_BUNDLE: &[File] = files!("rust/tool-bundle": "README.md", "src/lib.rs");
const RUST_POLICY: &[File] = files!("rust/policy": "README.md", "src/lib.rs");
const PYTHON: &[File] = files!("python": ".gitignore", "requirements.txt");
const PYTHON_TOOL_BUNDLE: &[File] =
    files!("python/tool-bundle": "README.md", "counting.py", "plugin.py", "test_counting.py");
const PYTHON_POLICY: &[File] = files!("python/policy": "README.md", "deciding.py", "plugin.py", "test_deciding.py");
const JAVASCRIPT: &[File] = files!("javascript": ".gitignore");
const JAVASCRIPT_TOOL_BUNDLE: &[File] = files!("javascript/tool-bundle": "README.md", "package.json", "plugin.js");
const JAVASCRIPT_POLICY: &[File] = files!("javascript/policy": "README.md", "package.json", "plugin.js");

impl Scaffold {
    /// Where each file goes below the plugin's folder, and what it holds.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let (common, own) = match (self.language, self.world) {
            (Language::Rust, World::ToolBundle) => (RUST, RUST_TOOL_BUNDLE),
            (Language::Rust, World::Policy) => (RUST, RUST_POLICY),
            (Language::Python, World::ToolBundle) => (PYTHON, PYTHON_TOOL_BUNDLE),
            (Language::Python, World::Policy) => (PYTHON, PYTHON_POLICY),
            (Language::JavaScript, World::ToolBundle) => (JAVASCRIPT, JAVASCRIPT_TOOL_BUNDLE),
            (Language::JavaScript, World::Policy) => (JAVASCRIPT, JAVASCRIPT_POLICY),
        };
        let fill = |&(path, text): &File| {
            let text = text
                .replace("{{name}}", self.name.as_str())
                .replace("{{snake_name}}", &self.name.in_snake_case());
            (path, if path == LOCK { sorted(&text) } else { text })
        };
        common.iter().chain(own).chain([&WIT]).map(fill).collect()
    }

    /// Writes the files into `folder`, which is made unless it is there and empty.
    ///
    /// # Errors
    /// If there is something in the folder, or it can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), ScaffoldError> {
        let unwritable = |path: &Path, error| ScaffoldError::Unwritable {
            path: path.to_owned(),
            error,
        };
        let mut made = Made::default();
        match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(ScaffoldError::Occupied(folder.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                made.folder(folder).map_err(|error| unwritable(folder, error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(ScaffoldError::Occupied(folder.to_owned()));
            }
            Err(error) => return Err(unwritable(folder, error)),
        }
        for (path, text) in self.files() {
            let path = folder.join(path);
            made.file(&path, &text).map_err(|error| unwritable(&path, error))?;
        }
        made.keep();
        Ok(())
    }
}

/// A lock file with its packages in cargo's order, which depends on what the first of them is named.
fn sorted(lock: &str) -> String {
    const START: &str = "\n[[package]]\n";
    let mut packages = lock.split(START);
    let head = packages.next().unwrap_or_default();
    let mut packages: Vec<&str> = packages.map(str::trim_end).collect();
    // Stable: versions of one package stay as they are.
    packages.sort_by_key(|package| package.lines().next());
    packages
        .iter()
        .fold(head.to_owned(), |lock, package| lock + START + package + "\n")
}

/// What was made so far; it goes again unless it is kept.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Made {
    fn folder(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder)?;
            self.folders.push(folder.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        self.files.push(path.to_owned());
        file.write_all(text.as_bytes())
    }

    fn keep(mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What somebody else has put there meanwhile stays, and its folders.
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaffold(name: &str, world: World, language: Language) -> Scaffold {
        Scaffold {
            name: name.parse().expect("a name"),
            world,
            language,
        }
    }

    #[test]
    fn a_name_that_crates_modules_and_tools_can_have_is_taken() {
        for name in ["a", "count-instances", "v2-tools", &"a".repeat(40)] {
            assert_eq!(name.parse::<Name>().expect("a name").as_str(), name);
        }
    }

    #[test]
    fn any_other_name_is_refused_with_the_reason() {
        let reason = |name: &str| name.parse::<Name>().expect_err("no name").to_string();
        for name in ["", "Count", "a_b", "2fast", "-a", "a-", "a--b", "a b", "../a", "é"] {
            assert_eq!(
                reason(name),
                "must be lower-case letters, digits and single hyphens, and begin with a letter",
                "{name:?}"
            );
        }
        assert_eq!(reason(&"a".repeat(41)), "must have at most 40 characters, has 41");
        assert_eq!(
            reason("serde"),
            "must not be serde: a crate that every plugin has is named so"
        );
    }

    #[test]
    fn every_scaffold_is_filled_in_and_has_the_interface_and_the_commands_to_build_it() {
        for language in Language::ALL {
            for world in World::ALL {
                let files = scaffold("count-things", world, language).files();
                for (path, text) in &files {
                    assert!(
                        !text.contains("{{name}}") && !text.contains("{{snake_name}}"),
                        "{path} of {language:?} {world:?}"
                    );
                }
                let text = |wanted: &str| {
                    let file = files.iter().find(|(path, _)| *path == wanted);
                    &file.unwrap_or_else(|| panic!("{wanted} of {language:?} {world:?}")).1
                };
                assert_eq!(text("wit/plugin.wit"), WIT.1);
                assert!(text("README.md").contains("dev-postgres-mcp plugin check "));
            }
        }
    }

    #[test]
    fn a_lock_file_is_in_cargos_order_whatever_the_plugin_is_named() {
        for name in ["aaa", "mmm", "zzz", "serde-jsonx"] {
            let files = scaffold(name, World::ToolBundle, Language::Rust).files();
            let (_, lock) = files.iter().find(|(path, _)| *path == LOCK).expect("a lock file");
            let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
            assert!(names.is_sorted(), "{names:?}");
            assert!(names.contains(&format!("{name:?}").as_str()));
            assert!(lock.ends_with('\n') && !lock.ends_with("\n\n"));
        }
    }

    #[test]
    fn a_scaffold_goes_into_a_new_or_an_empty_folder_only() {
        let home = tempfile::tempdir().expect("a folder");
        let scaffold = scaffold("mine", World::ToolBundle, Language::Rust);
        let folder = home.path().join("some/where");
        scaffold.write(&folder).expect("a new folder");
        assert!(folder.join("src/lib.rs").is_file());
        assert!(matches!(scaffold.write(&folder), Err(ScaffoldError::Occupied(_))));
        assert!(matches!(
            scaffold.write(&folder.join("README.md")),
            Err(ScaffoldError::Occupied(_))
        ));
        let empty = home.path().join("empty");
        fs::create_dir(&empty).expect("a folder");
        scaffold.write(&empty).expect("an empty folder");
    }

    #[test]
    fn what_fails_half_way_leaves_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let mut made = Made::default();
        let path = home.path().join("a/b/file");
        made.file(&path, "text").expect("written");
        assert!(made.file(&path, "again").is_err(), "nothing is overwritten");
        drop(made);
        assert_eq!(fs::read_dir(home.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_and_nothing_is_left() {
        let home = tempfile::tempdir().expect("a folder");
        // No file system takes a name that long.
        let folder = home.path().join("some").join("x".repeat(300));
        let written = scaffold("mine", World::ToolBundle, Language::Rust).write(&folder);
        assert!(
            matches!(&written, Err(ScaffoldError::Unwritable { path, .. }) if *path == folder),
            "{written:?}"
        );
        assert_eq!(std::fs::read_dir(home.path()).expect("the folder").count(), 0);
    }
}
