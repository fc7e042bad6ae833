//! How many requests apt sends at once.

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::apt::is_here;
use super::edit::put;
use super::{Failure, Frequency, Handled, Handler, Outcome, check};
use crate::context::Context;

/// The file of apt.
const FILE: &str = "/etc/apt/apt.conf.d/90cloud-init-pipelining";

/// Sets apt's pipelining.
pub struct AptPipelining;

/// Keys of the pipelining.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Requests that apt sends to one server before the first answer: 0 to 5, `false` for 0. `os`,
    /// `none` and `unchanged` leave what the image has.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["boolean", "integer", "string", "null"]))]
    apt_pipelining: Option<String>,
}

impl Handler for AptPipelining {
    const NAME: &'static str = "apt_pipelining";
    const SUMMARY: &'static str = "Sets how many requests apt sends at once";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let words = ["os", "none", "unchanged", "false", "no", "off", "0", "1", "2", "3", "4", "5"];
        let node = config.get("apt_pipelining");
        node.and_then(|node| check::word(node, "apt_pipelining", &words)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let word = config.apt_pipelining.as_deref().map_or("os", str::trim).to_lowercase();
        let depth = match (word.as_str(), scalar::boolean(&word)) {
            ("os" | "none" | "unchanged" | "", _) => {
                return Ok(Outcome::Skipped(Reason::NothingToDo, "the pipelining is the image's own".to_owned()));
            }
            (_, Some(false)) => "0",
            (depth @ ("0" | "1" | "2" | "3" | "4" | "5"), _) => depth,
            _ => {
                let message = format!("apt_pipelining: `{word}` is none of false, os, none, unchanged and 0 to 5");
                return Err(Failure::new(Reason::Config, message));
            }
        };
        if !is_here(&context.system) {
            return Ok(Outcome::Skipped(Reason::Unsupported, "this distribution has no apt".to_owned()));
        }
        let text =
            format!("//Written by cloud-init per 'apt_pipelining'\nAcquire::http::Pipeline-Depth \"{depth}\";\n");
        let changed = put(&context.system, FILE, &text, 0o644)?;
        Ok(Outcome::Ok(Some(json!({"depth": depth, "changed": changed}))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(word: &str, distro: &str) -> (Option<String>, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), &format!("apt_pipelining: {word}"));
        context.system.write("/etc/os-release", distro, crate::system::FileOptions::default()).unwrap();
        let handled = context.run_handler::<AptPipelining>();
        (context.system.read_text(FILE).ok(), handled)
    }

    #[test]
    fn a_depth_is_written_as_cloud_init_writes_it_and_the_other_words_leave_the_image_alone() {
        for (word, depth) in [("false", "0"), ("no", "0"), ("0", "0"), ("1", "1"), ("'5'", "5")] {
            let text = run(word, "ID=debian").0.unwrap();
            let expected = format!("Acquire::http::Pipeline-Depth \"{depth}\";\n");
            assert_eq!(text, format!("//Written by cloud-init per 'apt_pipelining'\n{expected}"));
        }
        for word in ["os", "none", "unchanged", "~"] {
            let (file, handled) = run(word, "ID=debian");
            assert!(file.is_none() && matches!(handled, Ok(Outcome::Skipped(Reason::NothingToDo, _))), "{word}");
        }
    }

    #[test]
    fn other_words_are_refused_and_others_have_no_apt() {
        for word in ["true", "6", "-1", "fast"] {
            let (file, handled) = run(word, "ID=debian");
            assert!(file.is_none() && handled.unwrap_err().message.contains("is none of false, os"), "{word}");
        }
        for distro in ["ID=fedora", "ID=alpine", "ID=sles\nID_LIKE=suse"] {
            let (file, handled) = run("3", distro);
            assert!(file.is_none() && matches!(handled, Ok(Outcome::Skipped(Reason::Unsupported, _))), "{distro}");
        }
    }
}
