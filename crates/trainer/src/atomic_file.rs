//! Files that are either the old or the new content, whatever happens in between.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the content of `path`, or creates it: a temporary file beside it is written, synchronised and renamed,
/// then the folder is synchronised. After a crash the file holds the old or the new bytes, never a part.
///
/// # Errors
/// What the file system reports; the temporary file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_through(path, bytes, |file| Box::new(file))
}

/// [`write_atomic`] through a writer around the temporary file.
fn write_through(path: &Path, bytes: &[u8], writer: impl FnOnce(&File) -> Box<dyn Write + '_>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}{TEMPORARY}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = write_synced(&temporary, bytes, writer).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(path))
}

const TEMPORARY: &str = ".tmp";

/// Removes the temporary files that writers left in `folder` when they were killed. None may be at work there. A folder
/// that does not exist has none.
///
/// # Errors
/// What the file system reports.
pub fn remove_temporaries(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY) {
            fs::remove_file(folder.join(&*name))?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8], writer: impl FnOnce(&File) -> Box<dyn Write + '_>) -> io::Result<()> {
    let file = File::create(path)?;
    let mut writer = writer(&file);
    writer.write_all(bytes)?;
    writer.flush()?;
    drop(writer);
    file.sync_all()
}

/// Makes it durable that `path` is in its folder. Only Unix lets a folder be opened for that.
///
/// # Errors
/// What the file system reports.
#[cfg(unix)]
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Nothing on this system.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_atomic(&path, b"old and longer").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // A folder cannot be replaced by a file.
        let taken = folder.path().join("folder");
        fs::create_dir(&taken).unwrap();
        assert!(write_atomic(&taken, b"new").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(write_atomic(&folder.path().join("no/such"), b"new").is_err());
        assert!(write_atomic(Path::new("/"), b"new").is_err());
    }

    /// A disk that fills after some bytes.
    struct Full<'f> {
        file: &'f File,
        room: usize,
    }

    impl Write for Full<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = self.file.write(&bytes[..bytes.len().min(self.room)])?;
            self.room -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_atomic(&path, b"old").unwrap();
        let new = [7; 100];
        for room in 0..new.len() {
            let error = write_through(&path, &new, |file| Box::new(Full { file, room })).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        write_through(&path, &new, |file| Box::new(Full { file, room: 100 })).unwrap();
        assert_eq!(fs::read(&path).unwrap(), new);
    }

    #[test]
    fn what_killed_writers_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".state.17.tmp", ".profile", "a.tmp", "state"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_temporaries(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".profile", "a.tmp", "state"]);
        remove_temporaries(&folder.path().join("none")).unwrap();
    }
}
