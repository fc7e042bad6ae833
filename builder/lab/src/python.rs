//! The lab's own Python environment: moto and what it needs, made once and shared by all labs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::paths::CACHE;
use crate::system::{files, process};

/// What is installed, pinned: the wrapper reaches into moto's models, which change with its version.
const PACKAGES: [&str; 2] = ["moto[server]==5.2.5", "boto3"];
/// A slow mirror is waited for this long.
const PATIENCE: Duration = Duration::from_secs(900);

/// The python that has moto; makes its environment first where that is missing. `tell` gets a line
/// for whoever waits for that.
///
/// # Errors
/// When it cannot be made, with pip's last words.
pub fn ensure(tell: impl FnOnce(&str)) -> Result<PathBuf> {
    let cache = Path::new(CACHE);
    let doing = || format!("cannot make the lab's Python environment in {CACHE}");
    files::make_dir(cache, 0o755).doing(doing)?;
    let _only_one = files::lock(&cache.join("lock")).doing(doing)?;
    let folder = cache.join(folder_name());
    let python = folder.join("bin/python");
    // The mark is written last; and after a system upgrade the link may lead nowhere.
    let mark = folder.join("complete");
    if mark.exists() && python.exists() {
        return Ok(python);
    }
    tell("Making the lab's Python environment (once): pip install moto[server]");
    files::remove_tree(&folder).doing(doing)?;
    process::tool(&["python3".as_ref(), "-m".as_ref(), "venv".as_ref(), folder.as_os_str()], "", PATIENCE)
        .doing(doing)?;
    let pip: [&std::ffi::OsStr; 7] = [
        python.as_os_str(),
        "-m".as_ref(),
        "pip".as_ref(),
        "install".as_ref(),
        "--quiet".as_ref(),
        PACKAGES[0].as_ref(),
        PACKAGES[1].as_ref(),
    ];
    process::tool(&pip, "", PATIENCE).map_err(|source| Error::Step {
        doing: format!("cannot install {} with pip (is PyPI reachable?)", PACKAGES.join(" and ")),
        source,
    })?;
    files::write(&mark, b"", 0o644).doing(doing)?;
    Ok(python)
}

/// A new set of packages gets a folder of its own.
fn folder_name() -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    PACKAGES.join("-").chars().map(safe).collect()
}
