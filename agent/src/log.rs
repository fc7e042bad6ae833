//! Where log lines go: journald with its fields, or standard error where journald does not listen.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sets up logging for the process. To be called once.
pub fn init() {
    // A person at a terminal reads standard error; the journal is for services.
    let journal = if is_service() { tracing_journald::layer().ok() } else { None };
    let stderr = journal.is_none().then_some(Terminal);
    let journal = journal.map(|layer| layer.with_syslog_identifier("kiln-agent".to_owned()));
    let _ = tracing_subscriber::registry().with(journal).with(stderr).with(LevelFilter::INFO).try_init();
}

fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

/// Lines for a person, on standard error. A line is all that is wanted: a formatter for every taste would be a
/// twentieth of a megabyte of the program.
struct Terminal;

impl<S: Subscriber> Layer<S> for Terminal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // A log that cannot be written is nothing to fail for, and there is nowhere to say it.
        let _ = std::io::stderr().lock().write_all(line(event).as_bytes());
    }
}

/// An event as ` INFO hostname ok handler="hostname" ms=3`.
fn line(event: &Event<'_>) -> String {
    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            // Writing to a string does not fail.
            let _ = match field.name() {
                "message" => write!(self.0, " {}", plain(&format!("{value:?}"))),
                name => write!(self.0, " {name}={value:?}"),
            };
        }
    }

    let mut line = Line(format!("{:>5}", event.metadata().level().as_str()));
    event.record(&mut line);
    line.0 + "\n"
}

/// A text without what would move a terminal's cursor or colour it.
fn plain(text: &str) -> String {
    let keeps = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if keeps(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps the lines.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(line(event));
        }
    }

    #[test]
    fn a_line_has_its_fields_and_nothing_for_a_terminal_to_obey() {
        let kept = Kept::default();
        let log = tracing_subscriber::registry().with(kept.clone()).with(LevelFilter::INFO);
        tracing::subscriber::with_default(log, || {
            let handler = "users";
            tracing::error!(handler, ms = 41, "users failed: \u{1b}[31mred\nnext");
            tracing::debug!("nobody asked");
        });
        let lines = kept.0.lock().unwrap();
        assert_eq!(*lines, ["ERROR users failed: \\u{1b}[31mred\nnext handler=\"users\" ms=41\n"]);
    }
}
