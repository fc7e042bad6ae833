//! Repositories of zypper, and its settings.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Named, Node, Spelled, Value, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{put, text_or_empty};
use super::section::Section;
use super::tools::{Steps, mode_of, not_text};
use super::{Failure, Frequency, Handled, Handler, Outcome, items};
use crate::context::Context;
use crate::system::{FileOptions, System};

/// Where zypper's settings are.
const CONF: &str = "/etc/zypp/zypp.conf";
/// The line before settings that the file did not have.
const MARK: &str = "# Added via cloud.cfg";

/// What is told of a repository without these.
const LACKING: &str = "it has not both `id` and `baseurl`; give them";

/// Adds repositories of zypper.
pub struct Zypper;

/// Keys of zypper.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Repositories and settings of zypper.
    zypper: Option<Keys>,
}

/// Repositories and settings of zypper.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// Repositories, each with `id`, `baseurl` and other keys of zypper's files; `enabled` and `autorefresh` are 1
    /// without the key. A file that is there stays.
    repos: Each<Section>,
    /// Settings of /etc/zypp/zypp.conf. `reposdir` is the repositories' folder, /etc/zypp/repos.d without the key.
    #[schemars(with = "Named<String>")]
    config: Named<Spelled>,
}

impl Handler for Zypper {
    const NAME: &'static str = "zypper";
    const SUMMARY: &'static str = "Adds repositories of zypper, and sets it up";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let Some(zypper) = config.get("zypper") else { return Vec::new() };
        let settings = zypper.get("config");
        let moved = settings.and_then(|settings| settings.get("configdir"));
        let message = "zypper's own folder cannot be moved, so this is left out";
        let told = |node: &Node| node.diagnostic(Severity::Warning, "zypper.config.configdir", message);
        let lacking = items(zypper, "repos").iter().filter(|node| {
            matches!(node.value, Value::Map(_)) && (node.get("id").is_none() || node.get("baseurl").is_none())
        });
        let lacking = lacking.map(|node| node.diagnostic(Severity::Warning, "zypper.repos", LACKING));
        let spelled = items(zypper, "repos").iter().enumerate().flat_map(|(index, repository)| {
            not_text(repository, &format!("zypper.repos[{index}]"), |key| matches!(key, "id" | "baseurl"))
        });
        moved.map(told).into_iter().chain(lacking).chain(spelled).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let system = &context.system;
        let nothing = Keys::default();
        let keys = config.zypper.as_ref().unwrap_or(&nothing);
        if keys.repos.is_empty() && keys.config.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "zypper is given nothing".to_owned()));
        }
        if !system.has_program("zypper") {
            let message = "this machine has no zypper, so nothing is written; `apt` or `yum_repos` is what it has";
            return Err(Failure::new(Reason::Unsupported, message));
        }
        let mut steps = Steps::of("zypper");
        let config: Vec<_> = keys.config.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
        let set = set(system, &config);
        let changed = matches!(set, Ok(true));
        steps.add("config", set.map(drop));
        let folder = config.iter().find(|(name, value)| name == "reposdir" && !value.is_empty());
        let folder = folder.map_or("/etc/zypp/repos.d", |(_, folder)| folder.trim_end_matches('/'));
        let (mut written, mut present) = (Vec::new(), Vec::new());
        for (index, repository) in keys.repos.iter().enumerate() {
            let outcome = file(repository).and_then(|(name, text)| {
                let path = format!("{folder}/{name}.repo");
                // The image's own file, or that of an earlier boot, wins.
                if system.exists(&path) && system.read(&path).is_ok_and(|old| old != text.as_bytes()) {
                    present.push(path);
                    return Ok(());
                }
                put(system, &path, &text, mode_of(&text))?;
                written.push(path);
                Ok(())
            });
            steps.add(&format!("repos[{index}]"), outcome);
        }
        steps.finish(json!({"written": written, "left_as_they_were": present, "config_changed": changed}))
    }
}

/// The name and the text of a repository's file.
fn file(keys: &Section) -> Result<(String, String), Failure> {
    let refuse = |why: &str| Err(Failure::new(Reason::Config, why.to_owned()));
    let value = |wanted: &str| keys.0.iter().find(|(key, _)| key == wanted).map_or("", |(_, value)| value.trim());
    let id = value("id");
    if id.is_empty() || value("baseurl").is_empty() {
        return refuse(LACKING);
    }
    if id.starts_with('.') || id.contains(['/', ']', '\n']) {
        return refuse("its id is no name of a file; write letters, digits and dashes");
    }
    let mut text = format!("[{id}]\n");
    let mut lacking = vec!["enabled", "autorefresh"];
    for (key, value) in keys.0.iter().filter(|(key, _)| key != "id") {
        let key = key.trim().to_lowercase().replace('-', "_");
        if key.is_empty() || key.contains(['\n', '=', '[']) {
            return refuse("one of its keys is no word; correct it");
        }
        lacking.retain(|name| *name != key);
        let value = match scalar::boolean(value) {
            Some(truth) => u8::from(truth).to_string(),
            // The further lines of a value are indented, or they would be keys.
            None => value.trim_end().lines().collect::<Vec<_>>().join("\n    "),
        };
        text.push_str(&format!("{key} = {value}\n"));
    }
    lacking.iter().for_each(|key| text.push_str(&format!("{key} = 1\n")));
    Ok((id.replace(' ', "_"), text))
}

/// Puts settings into zypper's file; whether it changed.
fn set(system: &System, settings: &[(String, String)]) -> Result<bool, Failure> {
    let old = text_or_empty(system, CONF)?;
    let mut bad = Vec::new();
    let is_good = |(name, value): &&(String, String)| name != "configdir" && !value.trim().is_empty();
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    let mut added = Vec::new();
    for (name, value) in settings.iter().filter(is_good) {
        if name.contains(['\n', '=', '[', '#']) || value.trim().contains('\n') {
            bad.push(name.escape_debug().to_string());
            continue;
        }
        let line = format!("{name}={}", value.trim());
        let of_name = |line: &&mut String| line.split_once('=').is_some_and(|(key, _)| key.trim() == name);
        match lines.iter_mut().rev().find(of_name) {
            Some(there) if there.split_once('=').is_some_and(|(_, now)| now.trim() == value.trim()) => {}
            Some(there) => *there = line,
            None => added.push(line),
        }
    }
    if !added.is_empty() {
        if lines.is_empty() {
            lines.push("[main]".to_owned());
        }
        if !lines.iter().any(|line| line == MARK) {
            lines.push(MARK.to_owned());
        }
        lines.append(&mut added);
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let changed = text.trim_end() != old.trim_end();
    if changed {
        system.write(CONF, text, FileOptions::default())?;
    }
    if bad.is_empty() {
        return Ok(changed);
    }
    let message = format!("`{}` has a line's end or another sign that is no setting's; correct it", bad.join("`, `"));
    Err(Failure::new(Reason::Config, message))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::handlers::Entry;

    fn run(user_data: &str, conf: Option<&str>) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        if let Some(text) = conf {
            context.system.write(CONF, text, FileOptions::mode(0o640)).unwrap();
        }
        context.system.write("/etc/zypp/repos.d/own.repo", "[own]\n", FileOptions::default()).unwrap();
        crate::testing::executable(&context.system, "/usr/bin/zypper", "");
        let handled = context.run_handler::<Zypper>();
        (tree, context, handled)
    }

    #[test]
    fn settings_are_put_in_place_once_however_often_the_machine_boots() {
        let conf = "## main\n[main]\n# reposdir = /x\ndownload.use_deltarpm = false\n";
        let user_data =
            "zypper: {config: {reposdir: /etc/zypp/other, download.use_deltarpm: true, empty: , configdir: /y}}";
        let (_tree, mut context, handled) = run(user_data, Some(conf));
        assert_eq!(
            handled,
            Ok(Outcome::Ok(Some(json!({"written": [], "left_as_they_were": [], "config_changed": true}))))
        );
        let expected =
            format!("## main\n[main]\n# reposdir = /x\ndownload.use_deltarpm=true\n{MARK}\nreposdir=/etc/zypp/other\n");
        for _ in 0..2 {
            assert_eq!(context.system.read_text(CONF).unwrap(), expected);
            let again = context.run_handler::<Zypper>().unwrap();
            assert!(matches!(again, Outcome::Ok(Some(detail)) if detail["config_changed"] == false));
        }
        assert_eq!(context.system.metadata(CONF).unwrap().mode() & 0o777, 0o640);
        let told = Entry::of::<Zypper>().prepare(&context.config).diagnostics;
        assert_eq!((told.len(), told[0].path.as_str()), (1, "zypper.config.configdir"));
    }

    #[test]
    fn without_a_file_of_settings_one_is_made_and_a_bad_setting_hides_no_other() {
        let user_data = "zypper: {config: {good: 1, bad: \"x\\ny\", worse: [1]}}";
        let (_tree, context, handled) = run(user_data, None);
        assert!(handled.unwrap_err().message.starts_with("zypper.config: `bad` has a line's end"));
        assert_eq!(context.system.read_text(CONF).unwrap(), format!("[main]\n{MARK}\ngood=1\n"));
        assert!(matches!(run("zypper:", None).2, Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }

    #[test]
    fn a_good_repository_is_written_beside_bad_ones_and_those_of_the_image_stay() {
        let user_data = "zypper:\n  repos:\n  - {id: os oss, name: x, baseurl: ['http://dl/', 'http://other/'], autorefresh: off, GPG-Check: yes}\n  \
            - {id: own, baseurl: y}\n  - {id: a}\n  - {id: ../b, baseurl: z}\n  - [c]\n  \
            - {id: secret, baseurl: 'https://me:hunter2@dl/'}\n";
        let (_tree, mut context, handled) = run(user_data, Some("[main]\n"));
        let failure = handled.unwrap_err();
        for part in ["zypper.repos[2]: it has not both", "zypper.repos[3]: its id is no name of a file"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        assert!(!format!("{failure:?}").contains("hunter2"));
        let told = Zypper::check(&context.config);
        assert_eq!((told.len(), told[0].message.as_str(), told[0].line), (1, LACKING, Some(5)));
        let read = |name: &str| context.system.read_text(format!("/etc/zypp/repos.d/{name}.repo")).unwrap();
        assert_eq!(
            read("os_oss"),
            "[os oss]\nname = x\nbaseurl = http://dl/\n    http://other/\nautorefresh = 0\ngpg_check = 1\nenabled = 1\n"
        );
        assert_eq!(read("own"), "[own]\n");
        assert_eq!(context.system.metadata("/etc/zypp/repos.d/secret.repo").unwrap().mode() & 0o777, 0o600);
        assert_eq!(context.system.read_text(CONF).unwrap(), "[main]\n");
        assert_eq!(context.run_handler::<Zypper>().unwrap_err().detail, failure.detail);
    }
}
