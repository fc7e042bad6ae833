//! Copies to other regions that were ordered and not heard of.

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Error, Journal};

/// Its own table, which may come to a journal of any age.
pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS copy (
    token TEXT PRIMARY KEY,
    place TEXT NOT NULL,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    began TEXT NOT NULL,
    outcome TEXT
) STRICT;
";

impl Journal {
    /// Writes down that a copy of an image to a region is about to be ordered, and gives the token to order
    /// it with: a new one, or that of an order whose end nobody saw. With the same token the API makes the
    /// same copy. Whoever asks holds the lease of the image.
    ///
    /// # Errors
    /// When it cannot be written; nothing may be ordered then.
    pub fn copy_begun(&self, place: &str, region: &str, name: &str) -> Result<String, Error> {
        let open = "SELECT token FROM copy WHERE place = ?1 AND region = ?2 AND name = ?3 AND outcome IS NULL";
        let begun = || {
            if let Some(token) = self.db.query_row(open, [place, region, name], |row| row.get(0)).optional()? {
                return Ok(token);
            }
            let now = jiff::Timestamp::now().to_string();
            let digest = Sha256::digest(format!("{place}\n{region}\n{name}\n{now}\n{}", self.us));
            // EC2 takes 64 characters.
            let token: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            self.db.execute(
                "INSERT INTO copy (token, place, region, name, began) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![token, place, region, name, now],
            )?;
            Ok(token)
        };
        begun().map_err(|why| self.error(&why))
    }

    /// Writes down what became of an order.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn copy_ended(&self, token: &str, outcome: &str) -> Result<(), Error> {
        let written = self.db.execute("UPDATE copy SET outcome = ?2 WHERE token = ?1", params![token, outcome]);
        written.map(drop).map_err(|why| self.error(&why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_was_cut_short_is_given_again_and_one_that_ended_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open_in(folder.path().to_owned()).unwrap();
        let first = journal.copy_begun("lab", "eu-west-1", "app").unwrap();
        assert_ne!(journal.copy_begun("lab", "eu-west-2", "app").unwrap(), first, "another region, another order");
        let next = Journal::open_in(folder.path().to_owned()).unwrap();
        assert_eq!(next.copy_begun("lab", "eu-west-1", "app").unwrap(), first);
        next.copy_ended(&first, "ordered ami-1").unwrap();
        assert_ne!(next.copy_begun("lab", "eu-west-1", "app").unwrap(), first);
        assert_eq!(first.len(), 64);
    }
}
