//! Files under a root: reads that name their path, writes that are atomic.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::System;

/// How a file is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    /// Permission bits; without them an existing file keeps its own, a new one gets 0644.
    pub mode: Option<u32>,
    /// User and group ids; without them an existing file keeps its own.
    pub owner: Option<(u32, u32)>,
    /// Wait until the bytes are on the disk: for what a crash must not lose.
    pub durable: bool,
}

impl FileOptions {
    /// A file with these permission bits.
    pub const fn mode(mode: u32) -> Self {
        FileOptions { mode: Some(mode), owner: None, durable: false }
    }

    /// The same, durable.
    pub fn durable(self) -> Self {
        FileOptions { durable: true, ..self }
    }
}

/// Most links that a path may go through, as in the kernel.
pub(super) const MAX_LINKS: usize = 40;

/// Resolves every link of `path` but the last inside `root`, so that a tree's absolute links and `..` stay in the tree.
pub(super) fn inside(root: &Path, path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    let mut rest: Vec<PathBuf> = path.components().rev().map(|c| PathBuf::from(c.as_os_str())).collect();
    let mut links = 0;
    while let Some(component) = rest.pop() {
        match component.components().next() {
            Some(Component::Normal(name)) => {
                let candidate = resolved.join(name);
                match fs::read_link(root.join(&candidate)) {
                    Ok(target) if !rest.is_empty() && links < MAX_LINKS => {
                        links += 1;
                        if target.is_absolute() {
                            resolved = PathBuf::new();
                        }
                        rest.extend(target.components().rev().map(|c| PathBuf::from(c.as_os_str())));
                    }
                    _ => resolved = candidate,
                }
            }
            Some(Component::ParentDir) => {
                resolved.pop();
            }
            _ => {}
        }
    }
    root.join(resolved)
}

/// An error that names its path. Nobody reads most of them: a boot asks for dozens of files that are not
/// there, and the sentence is made only for those who want it.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for Named {}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Named { path: path.to_owned(), error })
}

impl System {
    /// A path with its last component resolved too, for reading.
    pub(super) fn followed(&self, path: &Path) -> PathBuf {
        if self.is_live() {
            return path.to_owned();
        }
        // One more component makes the last one an inner one, which is resolved.
        let mut full = files_join_marker(path);
        full = inside(self.root(), &full);
        full.pop();
        full
    }

    /// A path of the machine without a link in it, whether there is something or not.
    pub fn resolved(&self, path: &str) -> String {
        let full = inside(self.root(), &files_join_marker(Path::new(path)));
        let full = full.parent().and_then(|full| full.strip_prefix(self.root()).ok());
        full.map_or_else(|| path.to_owned(), |rest| format!("/{}", rest.display()))
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let path = path.as_ref();
        fs::read(self.followed(path)).map_err(|e| named(path, e))
    }

    /// At most `limit` bytes of a file.
    ///
    /// # Errors
    /// The system's error, or that the file is larger.
    pub fn read_limited(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let path = path.as_ref();
        let file = File::open(self.followed(path)).map_err(|e| named(path, e))?;
        let size = file.metadata().map_or(0, |metadata| metadata.len()).min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| named(path, e))?;
        if bytes.len() as u64 > limit {
            let message = format!("{}: larger than {limit} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(bytes)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn read_text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let path = path.as_ref();
        fs::read_to_string(self.followed(path)).map_err(|e| named(path, e))
    }

    /// Whether something is there.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.followed(path.as_ref()).exists()
    }

    /// Whether something has this name, a link that leads nowhere included.
    pub fn is_there(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Whether `path` is a link that names `target`.
    pub fn is_link_to(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> bool {
        fs::read_link(self.path(path)).is_ok_and(|named| named == target.as_ref())
    }

    /// What the kernel tells of a file, links followed.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn metadata(&self, path: impl AsRef<Path>) -> io::Result<fs::Metadata> {
        let path = path.as_ref();
        fs::metadata(self.followed(path)).map_err(|e| named(path, e))
    }

    /// The names in a folder, sorted; none if there is no such folder.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let path = path.as_ref();
        let entries = match fs::read_dir(self.followed(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(named(path, error)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>().map_err(|e| named(path, e))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Replaces a file as a whole: a reader sees the old bytes or the new ones, also after a crash.
    ///
    /// Folders that lack are made with 0755. A link at `path` is followed, as the file it names is meant.
    ///
    /// # Errors
    /// The system's error, with the path in its text; the old file is untouched then.
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>, options: FileOptions) -> io::Result<()> {
        let path = path.as_ref();
        self.replace(&self.followed(path), bytes.as_ref(), options).map_err(|e| named(path, e))
    }

    fn replace(&self, target: &Path, bytes: &[u8], options: FileOptions) -> io::Result<()> {
        let folder = target.parent().unwrap_or(Path::new("/"));
        let old = fs::metadata(target).ok();
        let mode = options.mode.or(old.as_ref().map(|m| m.mode() & 0o7777)).unwrap_or(0o644);
        let owner = options.owner.or(old.as_ref().map(|m| (m.uid(), m.gid())));
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.kiln-{}", std::process::id()));
        let written = (|| {
            let mut file = create_new(&temporary)?;
            file.write_all(bytes)?;
            if let Some((uid, gid)) = owner {
                let now = file.metadata()?;
                if (now.uid(), now.gid()) != (uid, gid) {
                    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
                }
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            if options.durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, target)?;
            if options.durable {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Adds bytes to the end of a file, which is made if it lacks.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn append(&self, path: impl AsRef<Path>, bytes: &[u8], options: FileOptions) -> io::Result<()> {
        self.open_to_append(path, options)?.add(bytes, options.durable)
    }

    /// Opens a file to which bytes are added at its end; it is made if it lacks.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn open_to_append(&self, path: impl AsRef<Path>, options: FileOptions) -> io::Result<Appended> {
        let path = path.as_ref();
        let target = self.followed(path);
        let open = || {
            DirMaker::default().make(target.parent().unwrap_or(Path::new("/")))?;
            let created = !target.exists();
            let file =
                OpenOptions::new().append(true).create(true).mode(options.mode.unwrap_or(0o644)).open(&target)?;
            if let (true, Some(mode)) = (created, options.mode) {
                file.set_permissions(fs::Permissions::from_mode(mode))?;
            }
            if let Some((uid, gid)) = options.owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            Ok(file)
        };
        let file = open().map_err(|e: io::Error| named(path, e))?;
        Ok(Appended { path: path.to_owned(), file })
    }

    /// Makes a folder and those above it; an existing one keeps its mode and owner.
    /// New ones get `mode` and `owner`.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn make_dir(&self, path: impl AsRef<Path>, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
        let path = path.as_ref();
        DirMaker { mode, owner }.make(&self.followed(path)).map_err(|e| named(path, e))
    }

    /// Removes a file, a link, or a folder with all in it. Nothing there is fine.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let target = self.path(path);
        let removed = match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&target),
            Ok(_) => fs::remove_file(&target),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, error)),
            _ => Ok(()),
        }
    }

    /// Puts a symbolic link at `path` in one step, in place of what was there.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let place = self.path(path);
        let temporary = place.with_extension(format!("kiln-{}", std::process::id()));
        let made = DirMaker::default().make(place.parent().unwrap_or(Path::new("/")));
        let made = made.and_then(|()| {
            let _ = fs::remove_file(&temporary);
            std::os::unix::fs::symlink(&target, &temporary)?;
            fs::rename(&temporary, &place)
        });
        made.map_err(|e| named(path, e))
    }

    /// What a link says, as it stands in it; none where there is no link.
    pub fn link_target(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        fs::read_link(self.path(path.as_ref())).ok()
    }

    /// Gives a file or folder an owner, by ids. A link is not followed.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> io::Result<()> {
        let path = path.as_ref();
        std::os::unix::fs::lchown(self.path(path), Some(uid), Some(gid)).map_err(|e| named(path, e))
    }

    /// Gives a file or folder permission bits.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let path = path.as_ref();
        fs::set_permissions(self.followed(path), fs::Permissions::from_mode(mode)).map_err(|e| named(path, e))
    }
}

/// A file to whose end bytes are added.
pub struct Appended {
    path: PathBuf,
    file: File,
}

impl Appended {
    /// Adds bytes; waits until they are on the disk if they are to be `durable`.
    ///
    /// # Errors
    /// The system's error, with the path in its text.
    pub fn add(&mut self, bytes: &[u8], durable: bool) -> io::Result<()> {
        let added = self.file.write_all(bytes).and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        added.map_err(|e| named(&self.path, e))
    }
}

/// A new file in the place of what was there, with the folders above it. It is closed to others: its
/// bytes may be a secret, and it does not have its owner yet.
fn create_new(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    // What lacks is made when it turns out to lack: nearly always there is nothing to make or to remove.
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirMaker::default().make(path.parent().unwrap_or(Path::new("/")))?;
            open()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        opened => opened,
    }
}

fn files_join_marker(path: &Path) -> PathBuf {
    path.join("\u{0}")
}

/// Makes folders from the top, with a mode and owner for the new ones.
struct DirMaker {
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Default for DirMaker {
    fn default() -> Self {
        DirMaker { mode: 0o755, owner: None }
    }
}

impl DirMaker {
    fn make(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make(parent)?;
        }
        match fs::DirBuilder::new().mode(self.mode).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {
                return Ok(());
            }
            other => other?,
        }
        // The process's umask must not narrow what was asked for.
        fs::set_permissions(folder, fs::Permissions::from_mode(self.mode))?;
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::lchown(folder, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_tree_stay_in_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        fs::create_dir_all(tree.path().join("run/systemd")).unwrap();
        fs::create_dir_all(tree.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/run/systemd", tree.path().join("etc/systemd")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", tree.path().join("etc/escape")).unwrap();
        system.write("/etc/systemd/unit", "x", FileOptions::default()).unwrap();
        assert_eq!(fs::read_to_string(tree.path().join("run/systemd/unit")).unwrap(), "x");
        system.write("/etc/escape", "mine", FileOptions::default()).unwrap();
        assert_eq!(fs::read_to_string(tree.path().join("etc/passwd")).unwrap(), "mine");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_no_remains() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/secret", "one", FileOptions::mode(0o600)).unwrap();
        system.write("/secret", "two", FileOptions::default().durable()).unwrap();
        assert_eq!(system.metadata("/secret").unwrap().mode() & 0o7777, 0o600);
        assert_eq!(system.list("/").unwrap(), ["secret"]);
    }

    #[test]
    fn a_failed_write_names_the_path_and_keeps_the_old_file() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/file", "old", FileOptions::default()).unwrap();
        let error = system.write("/file/below", "new", FileOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with("/file/below: "), "{error}");
        assert_eq!(system.read_text("/file").unwrap(), "old");
    }

    #[test]
    fn a_larger_file_than_the_limit_is_refused() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/file", "12345", FileOptions::default()).unwrap();
        assert_eq!(system.read_limited("/file", 5).unwrap(), b"12345");
        assert!(system.read_limited("/file", 4).unwrap_err().to_string().contains("larger than 4 bytes"));
    }
}
