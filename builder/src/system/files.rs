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

/// Writes a file of this mode in one step; its folder must be there.
///
/// # Errors
/// What the file system answers.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
    io::Write::write_all(&mut new, content)?;
    // The mode at creation is subject to the umask.
    new.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    new.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes a folder, and those above it, that nobody but its owner can look into.
///
/// # Errors
/// What the file system answers.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Takes a folder away with all that is in it; that it is not there is no error.
///
/// # Errors
/// What the file system answers.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a file away; that it is not there is no error.
///
/// # Errors
/// What the file system answers.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it, if they are not there.
///
/// # Errors
/// What the file system answers.
pub fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Copies a file, or a folder with all that is in it, as [`copy_source`] does. A link that is named
/// itself is followed; links inside a folder stay links.
///
/// # Errors
/// What the file system answers, with the file it was at.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    copy_any(&from.canonicalize().map_err(at)?, to)
}

fn copy_any(from: &Path, to: &Path) -> io::Result<()> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    if !fs::symlink_metadata(from).map_err(at)?.is_dir() {
        return copy_source(from, to).map_err(at);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).map_err(at)? {
        let name = entry?.file_name();
        copy_any(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Opens a file to add to, for the owner alone, and makes it where there is none.
///
/// # Errors
/// What the file system answers.
pub fn private_log(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.append(true).create(true).open(path)
}

/// Writes every file of a folder anew whose content `change` changes, with the mode it had. Links are left
/// alone.
///
/// # Errors
/// What the file system answers, with the file it was at.
pub fn rewrite_all(folder: &Path, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let about = fs::symlink_metadata(&path).map_err(at)?;
        if about.is_dir() {
            rewrite_all(&path, change)?;
        } else if about.is_file()
            && let Some(content) = change(&fs::read(&path).map_err(at)?)
        {
            write(&path, &content, about.permissions().mode() & 0o7777).map_err(at)?;
        }
    }
    Ok(())
}

/// Moves all that is in a folder into another one of the same file system. Files of the same name are replaced,
/// folders keep what else they have.
///
/// # Errors
/// What the file system answers, with the file it was at.
pub fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            move_all(&path, &target)?;
        } else {
            fs::rename(&path, &target)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", target.display())))?;
        }
    }
    Ok(())
}

/// A file that takes one line after the other and is there up to the last one when the program dies.
pub struct LineLog(File);

impl LineLog {
    /// An empty one, for the owner alone: what a build prints is not for everybody.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn create(path: &Path) -> io::Result<LineLog> {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.write(true).create(true).truncate(true).open(path).map(LineLog)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        io::Write::write_all(&mut self.0, format!("{text}\n").as_bytes())
    }
}
