//! Where log lines go: journald with its fields, or standard error where journald does not listen.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sets up logging for the process. To be called once.
pub fn init() {
    // A person at a terminal reads standard error; the journal is for services.
    let journal = if is_service() { tracing_journald::layer().ok() } else { None };
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .without_time()
            .with_filter(LevelFilter::INFO)
    });
    let journal =
        journal.map(|layer| layer.with_syslog_identifier("kiln-agent".to_owned()).with_filter(LevelFilter::INFO));
    let _ = tracing_subscriber::registry().with(journal).with(stderr).try_init();
}

fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}
