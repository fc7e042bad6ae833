//! Where log lines go: journald with its fields, or standard error where journald does not listen.
//!
//! They are written here and by no crate for it: those keep a registry of spans, which no line of the agent
//! has and which each start of a boot would pay for.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

use tracing_core::dispatcher::{self, Dispatch};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, LevelFilter, Metadata, Subscriber};

/// Where journald takes entries in its own protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Most bytes of a field: with more, the entry would fit in no datagram and be lost as a whole.
const LONGEST: usize = 64 * 1024;

/// Sets up logging for the process. To be called once.
pub fn init() {
    // A person at a terminal reads standard error; the journal is for services.
    let log = if is_service() { Log::to_journal() } else { Log::Stderr };
    let _ = dispatcher::set_global_default(Dispatch::new(log));
}

fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

/// Writes lines from INFO up.
enum Log {
    Journal(UnixDatagram),
    Stderr,
}

impl Log {
    fn to_journal() -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| socket.send_to(&[], JOURNAL).map(|_| socket));
        socket.map_or(Log::Stderr, Log::Journal)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        // A log that cannot be written is nothing to fail for, and there is nowhere to say it.
        let _ = match self {
            Log::Journal(socket) => socket.send_to(&entry(event), JOURNAL).map(drop),
            Log::Stderr => std::io::stderr().lock().write_all(line(event).as_bytes()),
        };
    }

    // No span is enabled, so none is made.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An entry for the journal: each field with the length of its value, which may have lines.
fn entry(event: &Event<'_>) -> Vec<u8> {
    struct Entry(Vec<u8>);

    impl Entry {
        fn field(&mut self, name: &str, value: &str) {
            let value = value.get(..value.floor_char_boundary(LONGEST)).unwrap_or(value);
            self.0.extend(name.as_bytes());
            self.0.push(b'\n');
            self.0.extend((value.len() as u64).to_le_bytes());
            self.0.extend(value.as_bytes());
            self.0.push(b'\n');
        }

        /// A field of the line: `F_HANDLER` for `handler`, so that it is not taken for one of journald's own.
        fn own(&mut self, field: &Field, value: &str) {
            match field.name() {
                "message" => self.field("MESSAGE", value),
                name => self.field(&format!("F_{}", name.replace('.', "_").to_ascii_uppercase()), value),
            }
        }
    }

    impl Visit for Entry {
        fn record_str(&mut self, field: &Field, value: &str) {
            self.own(field, value);
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.own(field, &format!("{value:?}"));
        }
    }

    let metadata = event.metadata();
    let mut entry = Entry(Vec::with_capacity(512));
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        _ => "5",
    };
    entry.field("PRIORITY", priority);
    entry.field("SYSLOG_IDENTIFIER", "kiln-agent");
    entry.field("TARGET", metadata.target());
    if let Some((file, line)) = metadata.file().zip(metadata.line()) {
        entry.field("CODE_FILE", file);
        entry.field("CODE_LINE", &line.to_string());
    }
    event.record(&mut entry);
    entry.0
}

/// A line for a person: ` INFO hostname ok handler="hostname" ms=3`.
fn line(event: &Event<'_>) -> String {
    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            // Writing to a string does not fail.
            let _ = match field.name() {
                "message" => write!(self.0, " {}", Plain(format!("{value:?}"))),
                name => write!(self.0, " {name}={value:?}"),
            };
        }
    }

    let mut line = Line(format!("{:>5}", event.metadata().level().as_str()));
    event.record(&mut line);
    line.0 + "\n"
}

/// A text without what would move a terminal's cursor or colour it.
struct Plain(String);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' | '\t' => f.write_char(c)?,
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An event as a line and as an entry of the journal.
    type Written = (String, Vec<u8>);

    /// Keeps what the log would write.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Written>>>);

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            Log::Stderr.enabled(metadata)
        }

        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push((line(event), entry(event)));
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            panic!("a span was made")
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_line_has_its_fields_and_nothing_for_a_terminal_to_obey() {
        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || {
            let handler = "users";
            tracing::error!(handler, ms = 41, "users failed: \u{1b}[31mred\nnext");
            tracing::debug!("nobody asked");
            tracing::info_span!("span").in_scope(|| tracing::info!("done"));
        });
        let kept = kept.0.lock().unwrap();
        let lines: Vec<&str> = kept.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(lines, ["ERROR users failed: \\u{1b}[31mred\nnext handler=\"users\" ms=41\n", " INFO done\n"]);
    }

    #[test]
    fn an_entry_of_the_journal_has_lengths_and_fits_in_a_datagram() {
        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || {
            tracing::warn!(handler = "a", "two\nlines");
            tracing::warn!("{}", "é".repeat(LONGEST));
        });
        let kept = kept.0.lock().unwrap();
        let entry = String::from_utf8(kept[0].1.clone()).unwrap();
        for field in [
            "PRIORITY\n\u{1}\0\0\0\0\0\0\x004\n",
            "SYSLOG_IDENTIFIER\n\u{a}\0\0\0\0\0\0\0kiln-agent\n",
            "MESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\n",
            "F_HANDLER\n\u{1}\0\0\0\0\0\0\0a\n",
        ] {
            assert!(entry.contains(field), "{field:?} in {entry:?}");
        }
        assert!(kept[1].1.len() < LONGEST + 1000);
    }
}
