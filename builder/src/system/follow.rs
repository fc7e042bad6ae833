//! Reads a file line by line while another program writes it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

/// A file that grows.
pub struct Follow {
    file: File,
    rest: Vec<u8>,
    changes: EventStream<[u8; 1024]>,
}

impl Follow {
    /// From the beginning of the file.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn start(path: &Path) -> io::Result<Follow> {
        let changes = Inotify::init()?;
        changes.watches().add(path, WatchMask::MODIFY)?;
        let changes = changes.into_event_stream([0; 1024])?;
        // Opened after the watch began, so that nothing is written unseen.
        Ok(Follow { file: File::open(path)?, rest: Vec::new(), changes })
    }

    /// Waits until there is more, or may be.
    pub async fn grown(&mut self) {
        let _ = self.changes.next().await;
    }

    /// Hands on every line that is there and has its end.
    pub fn lines(&mut self, hear: &mut dyn FnMut(String)) {
        // A file that cannot be read any more has no more lines.
        let _ = self.file.read_to_end(&mut self.rest);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            hear(text(&line));
        }
    }

    /// Hands on what is left, when nobody writes any more.
    pub fn last_lines(mut self, hear: &mut dyn FnMut(String)) {
        self.lines(hear);
        if !self.rest.is_empty() {
            hear(text(&self.rest));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}
