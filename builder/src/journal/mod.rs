//! What this machine's bakes have begun, written down before they begin it.
//!
//! A bake that is killed cannot clean up. Its entry tells the next one, which finds by it whatever the
//! dead one had made: see `bake::recover`. The file is SQLite, because several bakes write at once and
//! a crash between two writes must not lose either.

mod copies;

use std::path::PathBuf;
use std::time::Duration;

use kiln_lab::Identity;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::system::files;

/// How long to wait for another bake that is writing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tables of version 1. A later version of this program adds a step behind it.
const TABLES: &str = "
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    image TEXT NOT NULL,
    name TEXT NOT NULL,
    place TEXT NOT NULL,
    report TEXT NOT NULL,
    tags TEXT NOT NULL,
    began TEXT NOT NULL,
    boot TEXT NOT NULL,
    owner_pid INTEGER NOT NULL,
    owner_start INTEGER NOT NULL,
    packer_pid INTEGER,
    packer_start INTEGER,
    outcome TEXT
) STRICT;
CREATE INDEX open_run ON run (place) WHERE outcome IS NULL;
PRAGMA user_version = 1;
";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the journal of bakes {}: {why}", path.display())]
pub struct Error {
    path: PathBuf,
    why: String,
}

/// A bake that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The id of the run: a tag on what it makes, and its key pair's name.
    pub run: String,
    /// The image in kiln.yaml.
    pub image: String,
    /// The full name of the new image.
    pub name: String,
    /// The API and region: things of one are not looked for at another.
    pub place: String,
    /// The folder of its report, absolute.
    pub report: PathBuf,
    /// The tags that the new image gets.
    pub tags: Vec<(String, String)>,
    /// The packer that works for it, once it does.
    pub packer: Option<Identity>,
}

/// The journal of this user on this machine.
pub struct Journal {
    path: PathBuf,
    db: Connection,
    /// See [`boot`]: a process of another boot is dead, whatever has its number now, and of one in another
    /// container nothing is known.
    boot: String,
    us: Identity,
}

impl Journal {
    /// Opens it below `KILN_STATE_DIR`, or else where the user's programs keep their state.
    ///
    /// # Errors
    /// When there is no such folder, or the file is no journal.
    pub fn open() -> Result<Journal, Error> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("KILN_STATE_DIR")
            .or_else(|| variable("XDG_STATE_HOME").map(|folder| folder.join("kiln")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".local/state/kiln")))
            .unwrap_or_else(|| PathBuf::from("/var/lib/kiln-builder"));
        Journal::open_in(folder)
    }

    fn open_in(folder: PathBuf) -> Result<Journal, Error> {
        let path = folder.join("journal.sqlite");
        let error = |why: String| Error { path: path.clone(), why };
        files::make_dir(&folder).map_err(|why| error(format!("{why}; name another folder with KILN_STATE_DIR")))?;
        let db = Connection::open(&path).map_err(|why| error(why.to_string()))?;
        let prepare = || {
            db.busy_timeout(PATIENCE)?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            // An entry must be on the disk before the first thing in the cloud is.
            db.pragma_update(None, "synchronous", "FULL")?;
            let tables = db.unchecked_transaction()?;
            if tables.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? == 0 {
                tables.execute_batch(TABLES)?;
            }
            tables.execute_batch(copies::TABLE)?;
            tables.commit()
        };
        prepare().map_err(|why: rusqlite::Error| error(why.to_string()))?;
        let boot = boot();
        let us = i32::try_from(std::process::id()).ok().and_then(Identity::of);
        let us = us.ok_or_else(|| error("/proc does not know this process".to_owned()))?;
        Ok(Journal { path, db, boot, us })
    }

    /// Writes down a bake that is about to begin.
    ///
    /// # Errors
    /// When it cannot be written; nothing may begin then.
    pub fn begin(&self, entry: &Entry) -> Result<(), Error> {
        let written = self.db.execute(
            "INSERT INTO run (id, image, name, place, report, tags, began, boot, owner_pid, owner_start)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                entry.run,
                entry.image,
                entry.name,
                entry.place,
                entry.report.to_string_lossy(),
                serde_json::to_string(&entry.tags).unwrap_or_default(),
                jiff::Timestamp::now().to_string(),
                self.boot,
                self.us.pid,
                self.us.start.cast_signed(),
            ],
        );
        written.map(drop).map_err(|why| self.error(&why))
    }

    /// Writes down which packer works for a run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn started(&self, run: &str, packer: Identity) -> Result<(), Error> {
        let written = self.db.execute(
            "UPDATE run SET packer_pid = ?2, packer_start = ?3 WHERE id = ?1",
            params![run, packer.pid, packer.start.cast_signed()],
        );
        written.map(drop).map_err(|why| self.error(&why))
    }

    /// Writes down that nothing of a run is left but what its outcome says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&self, run: &str, outcome: &str) -> Result<(), Error> {
        let written = self.db.execute("UPDATE run SET outcome = ?2 WHERE id = ?1", params![run, outcome]);
        written.map(drop).map_err(|why| self.error(&why))
    }

    /// The next bake at this place whose kiln died before it could write down an end. It is this
    /// process's from now on: nobody else gets it as long as this process lives.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn adopt(&self, place: &str) -> Result<Option<Entry>, Error> {
        self.adopt_dead(place).map_err(|why| self.error(&why))
    }

    fn adopt_dead(&self, place: &str) -> rusqlite::Result<Option<Entry>> {
        let open =
            "SELECT id, boot, owner_pid, owner_start FROM run WHERE place = ?1 AND outcome IS NULL ORDER BY began";
        // One writer at a time: two that look at once must not both take it.
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let taken = (|| {
            let mut open = self.db.prepare(open)?;
            let mut rows = open.query([place])?;
            while let Some(row) = rows.next()? {
                let owner = Identity { pid: row.get(2)?, start: row.get::<_, i64>(3)?.cast_unsigned() };
                let boot: String = row.get(1)?;
                let rebooted = machine_boot(&boot) != machine_boot(&self.boot);
                // Of one in another container its lease tells whether it lives, to whoever asks for that.
                let hidden = !rebooted && boot != self.boot && boot != machine_boot(&boot);
                if hidden || (!rebooted && (owner == self.us || owner.alive())) {
                    continue;
                }
                let id: String = row.get(0)?;
                self.db.execute(
                    "UPDATE run SET boot = ?2, owner_pid = ?3, owner_start = ?4,
                     packer_pid = iif(?5, NULL, packer_pid) WHERE id = ?1",
                    params![id, self.boot, self.us.pid, self.us.start.cast_signed(), rebooted],
                )?;
                return self.db.query_row("SELECT * FROM run WHERE id = ?1", [id], entry).optional();
            }
            Ok(None)
        })();
        self.db.execute_batch(if taken.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        taken
    }

    fn error(&self, why: &rusqlite::Error) -> Error {
        Error { path: self.path.clone(), why: why.to_string() }
    }
}

/// Where the numbers of processes mean what they mean to us: this boot of the machine, and on it our
/// container. Workers in two containers have one boot, and neither sees the other's processes.
pub fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let numbers = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let namespace: String = numbers.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{}.{namespace}", boot.trim())
}

/// The machine's part of it, which is all that entries of older versions have.
fn machine_boot(boot: &str) -> &str {
    boot.split_once('.').map_or(boot, |(machine, _)| machine)
}

fn entry(row: &Row) -> rusqlite::Result<Entry> {
    let packer = match (row.get::<_, Option<i32>>("packer_pid")?, row.get::<_, Option<i64>>("packer_start")?) {
        (Some(pid), Some(start)) => Some(Identity { pid, start: start.cast_unsigned() }),
        _ => None,
    };
    Ok(Entry {
        run: row.get("id")?,
        image: row.get("image")?,
        name: row.get("name")?,
        place: row.get("place")?,
        report: PathBuf::from(row.get::<_, String>("report")?),
        tags: serde_json::from_str(&row.get::<_, String>("tags")?).unwrap_or_default(),
        packer,
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders and start processes")]
mod tests {
    use super::*;

    fn entry(run: &str) -> Entry {
        let text = str::to_owned;
        Entry {
            run: text(run),
            image: text("golden"),
            name: text("golden-1.0-x86_64-1-ebs"),
            place: text("lab"),
            report: PathBuf::from("/tmp/report"),
            tags: vec![(text("owner"), text("sre"))],
            packer: None,
        }
    }

    /// Makes it the work of a process that is gone.
    fn orphan(journal: &Journal, run: &str) {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let gone = Identity::of(child.id().cast_signed()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let changed = journal.db.execute(
            "UPDATE run SET owner_pid = ?2, owner_start = ?3 WHERE id = ?1",
            params![run, gone.pid, gone.start.cast_signed()],
        );
        assert_eq!(changed.unwrap(), 1);
    }

    #[test]
    fn only_what_a_dead_kiln_left_open_is_adopted_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open_in(folder.path().join("deep/kiln")).unwrap();
        for run in ["ours", "ended", "dead", "elsewhere"] {
            journal.begin(&Entry { place: if run == "elsewhere" { run } else { "lab" }.into(), ..entry(run) }).unwrap();
        }
        let packer = Identity { pid: 4_000_000, start: 7 };
        journal.started("dead", packer).unwrap();
        journal.end("ended", "done ami-1").unwrap();
        for run in ["ended", "dead", "elsewhere"] {
            orphan(&journal, run);
        }
        let other = Journal::open_in(folder.path().join("deep/kiln")).unwrap();
        assert_eq!(other.adopt("lab").unwrap(), Some(Entry { packer: Some(packer), ..entry("dead") }));
        assert_eq!(journal.adopt("lab").unwrap(), None, "somebody who lives has it");
    }

    #[test]
    fn after_a_reboot_nobody_lives_and_no_number_means_anything() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open_in(folder.path().to_owned()).unwrap();
        journal.begin(&entry("before")).unwrap();
        journal.started("before", journal.us).unwrap();
        journal.boot = "another".to_owned();
        assert_eq!(journal.adopt("lab").unwrap(), Some(entry("before")));
    }

    #[test]
    fn a_bake_in_another_container_is_not_taken_for_dead_because_its_process_is_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open_in(folder.path().to_owned()).unwrap();
        journal.begin(&entry("beside")).unwrap();
        orphan(&journal, "beside");
        let ours = std::mem::replace(&mut journal.boot, format!("{}.1", machine_boot(&boot())));
        assert_eq!(journal.adopt("lab").unwrap(), None);
        journal.boot = ours;
        assert_eq!(journal.adopt("lab").unwrap(), Some(entry("beside")));
    }

    #[test]
    fn a_file_that_is_no_journal_is_told_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("journal.sqlite"), "not a database, but long enough to be looked at")
            .unwrap();
        let error = Journal::open_in(folder.path().to_owned()).map(drop).unwrap_err().to_string();
        assert!(error.contains("journal.sqlite: ") && error.contains("not a database"), "{error}");
    }
}
