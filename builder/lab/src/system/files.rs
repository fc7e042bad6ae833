//! Folders and files of a lab.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Makes a folder and those above it, with this mode for what is new.
///
/// # Errors
/// What the file system answers.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Replaces a file in one step: a reader sees the old content or the new one.
///
/// # Errors
/// What the file system answers.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Opens a log that only its owner reads; what is in it stays.
///
/// # Errors
/// What the file system answers.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Sets the mode of what is there.
///
/// # Errors
/// What the file system answers.
pub fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Moves a folder within one file system.
///
/// # Errors
/// What the file system answers.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Makes a symbolic link.
///
/// # Errors
/// What the file system answers.
pub fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

/// Writes a value where the kernel takes it, such as below `/proc/sys` or in a cgroup.
///
/// # Errors
/// What the kernel answers.
pub fn tell_kernel(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Removes a file or link. One that is not there is as good as removed.
///
/// # Errors
/// What the file system answers.
pub fn remove(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

/// Removes an empty folder. One that is not there is as good as removed.
///
/// # Errors
/// What the file system answers.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir(path))
}

/// Removes a folder with all that is in it; links in it are not followed. One that is not there is
/// as good as removed. The caller has unmounted what was mounted below it.
///
/// # Errors
/// What the file system answers.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))
}

fn absent_is_fine(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The entries of a folder, sorted; none where it does not exist.
///
/// # Errors
/// What the file system answers.
pub fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Waits until no other process holds this lock, and holds it until the answer is dropped.
///
/// # Errors
/// What the file system answers.
pub fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Random bytes from the kernel.
///
/// # Errors
/// When the kernel has none to give.
pub fn random(count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// The last line of a log that says something, or that there is none.
pub fn last_line(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned()
}
