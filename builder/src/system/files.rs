//! Folders and files.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Makes a folder that holds nothing, whatever was there before.
///
/// # Errors
/// What the file system answers.
pub fn empty_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(path),
    }
}

/// Copies a source file as a version control system keeps it: content, link or execute bit, and the
/// time of its last change, by which cargo and make judge what is fresh.
///
/// # Errors
/// What the file system answers.
pub fn copy_source(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let about = fs::symlink_metadata(from)?;
    if about.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to)?;
    let executable = about.permissions().mode() & 0o100 != 0;
    fs::set_permissions(to, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    File::options().write(true).open(to)?.set_times(FileTimes::new().set_modified(about.modified()?))
}

/// Puts a finished file in a folder under its own name, in one step: whoever reads that name sees the
/// old file or the new one.
///
/// # Errors
/// What the file system answers.
pub fn place(file: &Path, folder: &Path) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut new = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
    io::copy(&mut File::open(file)?, &mut new)?;
    new.as_file().sync_all()?;
    new.persist(folder.join(name)).map(drop).map_err(|error| error.error)
}
