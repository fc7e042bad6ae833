//! Disks: partitions and file systems that grow with them, new ones, mounts and swap.
//!
//! Nothing is partitioned or formatted that the user-data does not name, and without `overwrite` or
//! `replace_fs` nothing that holds anything: blkid(8) says so. What the kernel has in use is never touched.
//!
//! - `growpart`, `resizefs`: run by themselves where / could be larger, which sysfs and the superblock tell.
//! - `setup`: `disk_setup` and `fs_setup`, by `partitions` and `filesystems`.
//! - `mounts`: `mounts` and `swap`, by `fstab` and `swap`.
//! - `block`: what the kernel tells of disks; `names`: which disk a name of the user-data means.

use kiln_schema::yaml::{self, Node};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::{Failure, Handled, Outcome};
use kiln_schema::status::Reason;

mod block;
mod filesystems;
mod fstab;
mod growpart;
mod mounts;
mod names;
mod partitions;
mod resizefs;
mod setup;
mod swap;

pub use growpart::Growpart;
pub use mounts::Mounts;
pub use resizefs::ResizeFs;
pub use setup::DiskSetup;

/// Less than this is not worth a program at each boot: aligning takes as much from the end of a disk.
const WORTH: u64 = 4 * 1024 * 1024;
/// Bytes of a sector, as sysfs counts them whatever the disk's own sectors are.
const SECTOR: u64 = 512;

/// What came of each entry: one that fails stops no other.
#[derive(Default)]
struct Pass {
    done: Vec<Json>,
    failures: Vec<Failure>,
}

impl Pass {
    /// Keeps the result of an entry; `place` says which one it is.
    fn note(&mut self, place: &str, result: Result<Json, Failure>) {
        match result {
            Ok(done) => self.done.push(done),
            Err(failure) => self.failures.push(failure.under(place)),
        }
    }

    fn outcome(self, nothing: &str) -> Handled {
        let Some(failure) = Failure::all(self.failures) else {
            if self.done.is_empty() {
                return Ok(Outcome::Skipped(Reason::NothingToDo, nothing.to_owned()));
            }
            return Ok(Outcome::Ok(Some(json!({"done": self.done}))));
        };
        Err(failure.with_detail(json!({"done": self.done})))
    }
}

/// Where an entry stands, for a message.
fn place(path: &str, node: &Node) -> String {
    if node.place.line == 0 { path.to_owned() } else { format!("{path} (line {})", node.place.line) }
}

/// One entry of a list or mapping, whose errors are told with the rest of the document's.
fn read<T: DeserializeOwned>(node: &Node) -> Result<T, Failure> {
    let checked = yaml::read::<T>(node, "");
    checked.value.ok_or_else(|| {
        let error = checked.diagnostics.into_iter().find(|found| found.severity == kiln_schema::Severity::Error);
        Failure::new(
            Reason::Config,
            error.map_or_else(String::new, |error| match error.path.as_str() {
                "" => error.message,
                path => format!("{path}: {}", error.message),
            }),
        )
    })
}

/// A failure of the user-data.
fn config(message: impl Into<String>) -> Failure {
    Failure::new(Reason::Config, message)
}
