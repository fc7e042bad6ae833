//! Puppet's summary of its last run, `last_run_summary.yaml`.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// What the summary tells, as far as a boot and a gate care.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Summary {
    /// None after a run without a catalogue.
    resources: Option<Resources>,
    #[serde(default)]
    time: Time,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    changed: u64,
    failed: u64,
    failed_to_restart: u64,
    out_of_sync: u64,
    skipped: u64,
    total: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Time {
    /// Seconds since the epoch, whole.
    last_run: Option<i64>,
    /// Seconds that the server took for the catalogue.
    config_retrieval: Option<f64>,
}

impl Summary {
    /// Reads a summary.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        // An empty file is one that a full disk left behind.
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    /// Whether the run that it tells of began no earlier than this. Its clock has whole seconds.
    pub fn is_of_run_since(&self, started: Timestamp) -> bool {
        self.time.last_run.is_some_and(|last_run| last_run >= started.as_second())
    }

    /// Why the run was not good, if it was not.
    pub fn failure(&self) -> Option<String> {
        let Some(resources) = &self.resources else {
            return Some("the run ended without a catalogue".to_owned());
        };
        let Resources { failed, failed_to_restart, total, .. } = resources;
        match (failed, failed_to_restart) {
            (0, 0) => None,
            (0, restarts) => Some(format!("{restarts} of {total} resources failed to restart")),
            (failed, _) => Some(format!("{failed} of {total} resources failed")),
        }
    }

    /// `3 of 9 resources changed, 0 failed`.
    pub fn counts(&self) -> String {
        match &self.resources {
            Some(r) => format!("{} of {} resources changed, {} failed", r.changed, r.total, r.failed),
            None => "no catalogue".to_owned(),
        }
    }

    /// The counts for the status.
    pub fn detail(&self) -> Json {
        let Some(r) = &self.resources else {
            return json!({});
        };
        json!({"changed": r.changed, "failed": r.failed, "failed_to_restart": r.failed_to_restart,
            "out_of_sync": r.out_of_sync, "skipped": r.skipped, "total": r.total,
            "config_retrieval_s": self.time.config_retrieval})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As puppet 7.23 writes it.
    const REAL: &str = "---\nversion:\n  config: 1700000000\n  puppet: 7.23.0\napplication:\n  run_mode: user\n\
        resources:\n  changed: 1\n  corrective_change: 0\n  failed: 0\n  failed_to_restart: 0\n  out_of_sync: 1\n  \
        restarted: 0\n  scheduled: 0\n  skipped: 0\n  total: 8\ntime:\n  config_retrieval: 0.25\n  total: 1.2\n  \
        last_run: 1700000001\nchanges:\n  total: 1\nevents:\n  failure: 0\n  success: 1\n  total: 1\n";

    #[test]
    fn a_summary_gives_counts_and_time() {
        let summary = Summary::parse(REAL).unwrap();
        assert_eq!(summary.failure(), None);
        assert_eq!(summary.detail()["changed"], 1);
        assert!(summary.is_of_run_since(Timestamp::from_millisecond(1_700_000_001_900).unwrap()));
        assert!(!summary.is_of_run_since(Timestamp::from_second(1_700_000_002).unwrap()));
    }

    #[test]
    fn a_run_that_was_not_good_says_why() {
        let with = |from: &str, to: &str| Summary::parse(&REAL.replace(from, to)).unwrap().failure();
        assert_eq!(with("failed: 0", "failed: 2").as_deref(), Some("2 of 8 resources failed"));
        assert_eq!(
            with("failed_to_restart: 0", "failed_to_restart: 1").as_deref(),
            Some("1 of 8 resources failed to restart")
        );
        let no_catalogue = Summary::parse("---\nversion:\n  config: \ntime:\n  last_run: 1700000001\n").unwrap();
        assert_eq!(no_catalogue.failure().as_deref(), Some("the run ended without a catalogue"));
        assert_eq!(no_catalogue.detail(), json!({}));
    }

    #[test]
    fn a_broken_summary_is_an_error_and_not_a_good_run() {
        for text in ["", "\n", "{{{", "--- text\n", "resources: [1]\n"] {
            assert!(Summary::parse(text).is_err(), "{text}");
        }
        assert!(!Summary::parse("resources: {total: 1}\n").unwrap().is_of_run_since(Timestamp::UNIX_EPOCH));
    }
}
