//! The resolver's configuration, on distributions that have it in a file of their own.

use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{Pairs, put};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// The file.
const FILE: &str = "/etc/resolv.conf";

/// Writes the resolver's configuration.
pub struct ResolvConf;

/// Keys of the resolver.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Write /etc/resolv.conf; false without the key. On Red Hat's family only.
    manage_resolv_conf: bool,
    /// What to write.
    resolv_conf: Option<Keys>,
}

/// What the resolver is told.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// Addresses of name servers.
    nameservers: Each<String>,
    /// Domains in which short names are looked for.
    searchdomains: Each<String>,
    /// The machine's own domain.
    domain: Option<String>,
    /// Networks whose addresses come first.
    sortlist: Each<String>,
    /// Options: `rotate: true`, `timeout: 1`.
    options: Pairs,
}

impl Handler for ResolvConf {
    const NAME: &'static str = "resolv_conf";
    const SUMMARY: &'static str = "Writes /etc/resolv.conf";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        if !config.manage_resolv_conf {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "manage_resolv_conf is not set".to_owned()));
        }
        if !context.system.distro().is_red_hat() {
            let message = "on this distribution another program writes /etc/resolv.conf; tell the network's \
                           configuration of the name servers";
            return Ok(Outcome::Skipped(Reason::Unsupported, message.to_owned()));
        }
        let Some(keys) = &config.resolv_conf else {
            let message = "manage_resolv_conf is true and `resolv_conf` says nothing; give it nameservers";
            return Err(Failure::new(Reason::Config, message));
        };
        let (text, failures) = content(keys);
        if text.is_empty() {
            let none = Failure::new(Reason::Config, "resolv_conf: nothing of it can be written; give it nameservers");
            return Err(Failure::all(failures).unwrap_or(none));
        }
        let text = format!("# Written by kiln-agent, as manage_resolv_conf asks.\n{text}");
        let detail = json!({"changed": put(&context.system, FILE, &text, 0o644)?});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// The lines, without the words that would be other lines.
fn content(keys: &Keys) -> (String, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut good = |key: &str, words: &[String]| -> Vec<String> {
        let fits = |word: &String| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '#');
        for word in words.iter().filter(|word| !fits(word)) {
            let message = format!("resolv_conf.{key}: `{}` is not one word; correct it", word.escape_debug());
            failures.push(Failure::new(Reason::Config, message));
        }
        words.iter().filter(|word| fits(word)).cloned().collect()
    };
    let mut lines: Vec<String> = Vec::new();
    for server in good("nameservers", &keys.nameservers) {
        lines.push(format!("nameserver {server}"));
    }
    let options: Vec<String> = keys
        .options
        .0
        .iter()
        .filter_map(|(name, value)| match scalar::boolean(value) {
            Some(true) => Some(name.clone()),
            Some(false) => None,
            None => Some(format!("{name}:{value}")),
        })
        .collect();
    let domain: Vec<String> = keys.domain.iter().cloned().collect();
    for (key, word, words) in [
        ("domain", "domain", domain.as_slice()),
        ("searchdomains", "search", &keys.searchdomains),
        ("sortlist", "sortlist", &keys.sortlist),
        ("options", "options", &options),
    ] {
        let words = good(key, words);
        if !words.is_empty() {
            lines.push(format!("{word} {}", words.join(" ")));
        }
    }
    (lines.into_iter().map(|line| line + "\n").collect(), failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(user_data: &str, distro: &str) -> (Option<String>, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        context.system.write("/etc/os-release", distro, crate::system::FileOptions::default()).unwrap();
        let handled = context.run_handler::<ResolvConf>();
        (context.system.read_text(FILE).ok(), handled)
    }

    #[test]
    fn red_hat_gets_every_line_and_a_bad_word_alone_is_left_out() {
        let keys = "manage_resolv_conf: true, resolv_conf: {nameservers: [8.8.8.8, \"1.1.1.1\\nsearch evil\", '::1'], \
            searchdomains: [a.example, b.example], domain: example.com, sortlist: [10.0.0.1/255], \
            options: {rotate: true, debug: false, timeout: 1}}";
        let (file, handled) = run(&format!("{{{keys}}}"), "ID=fedora");
        let lines: Vec<_> = file.as_deref().unwrap().lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "nameserver 8.8.8.8",
                "nameserver ::1",
                "domain example.com",
                "search a.example b.example",
                "sortlist 10.0.0.1/255",
                "options rotate timeout:1"
            ]
        );
        assert!(
            handled.unwrap_err().message.contains("resolv_conf.nameservers: `1.1.1.1\\nsearch evil` is not one word")
        );
    }

    #[test]
    fn nothing_to_write_is_told_and_debian_and_false_are_left_alone() {
        for (user_data, distro, reason) in [
            ("{manage_resolv_conf: false, resolv_conf: {domain: a}}", "ID=fedora", Reason::SwitchedOff),
            ("{resolv_conf: {domain: a}}", "ID=fedora", Reason::SwitchedOff),
            ("{manage_resolv_conf: true, resolv_conf: {domain: a}}", "ID=debian", Reason::Unsupported),
        ] {
            let (file, handled) = run(user_data, distro);
            assert!(matches!(handled, Ok(Outcome::Skipped(why, _)) if why == reason), "{user_data}");
            assert_eq!(file, None);
        }
        for keys in ["", ", resolv_conf: {nameservers: []}"] {
            let (file, handled) = run(&format!("{{manage_resolv_conf: true{keys}}}"), "ID=fedora");
            assert!(handled.unwrap_err().message.ends_with("give it nameservers"));
            assert_eq!(file, None);
        }
    }
}
