//! Files that are read within a bound, whoever put them there, and written whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::failpoint;

/// How old a file in a cache may grow. Those of other versions of this program, or of what was configured once, are
/// asked for by nobody.
const AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// What the names of files begin with that are being written.
const UNFINISHED: &str = ".dev-postgres-mcp-new-";

/// A file's bytes.
///
/// # Errors
/// If it can't be read, is no regular file, or has more than `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Looked at by name first: opening a pipe would wait for somebody to write.
    let is_file = fs::metadata(path)?.is_file();
    if !is_file {
        return Err(io::Error::other("it is no regular file"));
    }
    read_all(File::open(path)?, most)
}

/// Opens a plain file to read it where another user may have put anything in its place: a link, a pipe that nobody writes
/// to.
///
/// # Errors
/// If it can't be opened or is something else.
pub(crate) fn open_planted(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, careful.bits().cast_signed());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("is no plain file"))
    }
}

/// What is in an open file.
///
/// # Errors
/// If it can't be read, or has more than `most` bytes.
pub(crate) fn read_all(file: File, most: u64) -> io::Result<Vec<u8>> {
    let too_large = |has: u64| Err(io::Error::other(format!("it has {has} bytes, may have {most}")));
    let has = file.metadata()?.len();
    if has > most {
        return too_large(has);
    }
    let mut bytes = Vec::new();
    // One more: it may grow meanwhile.
    let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes)? as u64;
    if read > most { too_large(read) } else { Ok(bytes) }
}

/// Writes a file of a cache, whole or not at all, and removes what has grown old there. The folder is made if need be,
/// and is then this user's alone.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn keep(folder: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    make_private(folder)?;
    remove_old(folder)?;
    write_whole(path, parts)
}

/// Makes a folder that is nobody else's, unless there is one.
///
/// # Errors
/// If it can't be made.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A file that only its owner reads.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Writes a file by way of another one beside it: whoever reads it finds it as it was or as it will be. What killed
/// processes were writing there is removed.
///
/// # Errors
/// If it can't be written; it is then as it was.
pub(crate) fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    write(path, parts, &mut OpenOptions::new(), false)
}

/// As [`write_whole`], for nobody but the owner. If it `is_synced`, a power cut leaves it so, too.
///
/// # Errors
/// If it can't be written; it is then as it was.
pub(crate) fn write_private(path: &Path, bytes: &[u8], is_synced: bool) -> io::Result<()> {
    write(path, &[bytes], private(&mut OpenOptions::new()), is_synced)
}

fn write(path: &Path, parts: &[&[u8]], options: &mut OpenOptions, is_synced: bool) -> io::Result<()> {
    remove_unfinished(path);
    let (unfinished, mut file) = begin(path, options)?;
    failpoint::pass("before writing a file");
    let written = parts
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| if is_synced { file.sync_all() } else { Ok(()) })
        .inspect(|()| failpoint::pass("after writing a file"))
        .and_then(|()| fs::rename(&unfinished, path));
    // On Windows, nobody reads what is locked.
    let _ = file.unlock();
    if written.is_err() {
        // It may not be there at all.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// A new file beside `path`, locked for as long as it is open: so everybody sees whether it is still being written.
fn begin(path: &Path, options: &mut OpenOptions) -> io::Result<(PathBuf, File)> {
    loop {
        let unfinished = path.with_file_name(format!("{UNFINISHED}{}", Uuid::new_v4()));
        let file = options.create_new(true).write(true).open(&unfinished)?;
        match file.try_lock() {
            Ok(()) if unfinished.exists() => return Ok((unfinished, file)),
            // Whoever looked between these two lines has removed it, or is about to.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Removes what nobody is writing any more beside `path`, as far as that can be told.
fn remove_unfinished(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix(UNFINISHED))
            .is_some_and(|id| id.parse::<Uuid>().is_ok());
        // Locked until it is removed: whoever has just made it sees then that it has gone.
        if is_ours
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_old(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age > AGE_MAX) {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_or_no_file_is_not_read() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("file");
        write_whole(&path, &[b"12", b"34"]).expect("written");
        assert_eq!(read(&path, 4).expect("it fits"), b"1234");
        let error = read(&path, 3).expect_err("too large");
        assert_eq!(error.to_string(), "it has 4 bytes, may have 3");
        assert!(read(home.path(), 100).is_err(), "a folder");
        assert!(read(&home.path().join("missing"), 100).is_err());
    }

    #[test]
    fn what_a_killed_process_was_writing_goes_and_what_another_one_writes_stays() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("file");
        let (abandoned, file) = begin(&path, &mut OpenOptions::new()).expect("begun");
        drop(file);
        let (under_way, _file) = begin(&path, &mut OpenOptions::new()).expect("begun");
        let foreign = home.path().join(format!("{UNFINISHED}mine"));
        fs::write(&foreign, "x").expect("written");
        write_whole(&path, &[b"x"]).expect("written");
        assert_eq!(
            [abandoned, under_way, foreign, path].map(|path| path.exists()),
            [false, true, true, true]
        );
        let left = fs::read_dir(home.path()).expect("a folder").count();
        assert_eq!(left, 3);
    }

    #[test]
    fn old_files_go_when_new_ones_come() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("cache");
        let (old, new) = (folder.join("old"), folder.join("new"));
        keep(&folder, &old, &[b"x"]).expect("kept");
        let file = OpenOptions::new().write(true).open(&old).expect("the file");
        file.set_modified(SystemTime::now() - AGE_MAX - Duration::from_mins(1))
            .expect("an old time");
        drop(file);
        keep(&folder, &new, &[b"x"]).expect("kept");
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_as_it_was_and_nothing_is_left() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("taken");
        fs::create_dir(&path).expect("a folder");
        assert!(write_whole(&path, &[b"x"]).is_err());
        assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 1);
    }
}
