//! Repositories of yum and dnf.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Named, Node, Value, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::put;
use super::section::Section;
use super::tools::not_text;
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// The keys of which a repository has one.
const ADDRESSES: &[&str] = &["baseurl", "metalink", "mirrorlist"];
const NO_ADDRESS: &str = "it has none of baseurl, metalink and mirrorlist; give one";

/// Adds repositories of yum and dnf.
pub struct YumRepos;

/// Keys of the repositories.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Repositories by id, each with the keys of a file of yum: name, and baseurl, metalink or mirrorlist.
    yum_repos: Named<Section>,
    /// The folder of their files; /etc/yum.repos.d without the key.
    yum_repo_dir: Option<String>,
}

impl Handler for YumRepos {
    const NAME: &'static str = "yum_repos";
    const SUMMARY: &'static str = "Adds repositories of yum and dnf";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let repositories = config.get("yum_repos").map_or(&[][..], Node::entries);
        let lacking = repositories.iter().filter(|entry| {
            matches!(entry.value.value, Value::Map(_)) && !ADDRESSES.iter().any(|key| entry.value.get(key).is_some())
        });
        let told = |entry: &yaml::Entry| {
            entry.place.diagnostic(Severity::Warning, &format!("yum_repos.{}", entry.key), NO_ADDRESS)
        };
        let spelled =
            repositories.iter().flat_map(|entry| spellings(&entry.value, &format!("yum_repos.{}", entry.key)));
        lacking.map(told).chain(spelled).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let system = &context.system;
        if config.yum_repos.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no repositories are given".to_owned()));
        }
        if !system.distro().is_red_hat() {
            return Ok(Outcome::Skipped(Reason::Unsupported, "this distribution has no yum".to_owned()));
        }
        let folder = config.yum_repo_dir.as_deref().unwrap_or("/etc/yum.repos.d").trim_end_matches('/');
        let (mut written, mut present, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for (id, keys) in config.yum_repos.iter() {
            let stem = id.trim().to_lowercase().replace(' ', "-");
            let path = format!("{folder}/{stem}.repo");
            let outcome = content(&stem, keys).and_then(|text| {
                // The image's own file, or that of an earlier boot, wins.
                if system.exists(&path) && system.read(&path).is_ok_and(|old| old != text.as_bytes()) {
                    present.push(path);
                    return Ok(());
                }
                // A repository's password is for root alone.
                let secret = keys.0.iter().any(|(key, value)| key.contains("password") || value.contains('@'));
                put(system, &path, &text, if secret { 0o600 } else { 0o644 })?;
                written.push(path);
                Ok(())
            });
            if let Err(failure) = outcome {
                let message = format!("yum_repos.{id}: {}", failure.message);
                failures.push(Failure { message, ..failure });
            }
        }
        let detail = json!({"written": written, "left_as_they_were": present});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// What other readers refuse in a repository's keys, and is written here as it is spelled.
fn spellings(keys: &Node, path: &str) -> Vec<Diagnostic> {
    let mut told = not_text(keys, path, |key| key == "name" || ADDRESSES.contains(&key));
    for entry in keys.entries() {
        let message = match &entry.value.value {
            Value::List(_) => "a list, of which each item is a line of the value; write one text",
            _ if entry.key == "enabled" && entry.value.kind() != "a boolean" => "true or false is expected here",
            _ => continue,
        };
        told.push(entry.value.diagnostic(Severity::Warning, &format!("{path}.{}", entry.key), message));
    }
    told
}

/// The file of one repository.
fn content(id: &str, keys: &Section) -> Result<String, Failure> {
    let refuse = |why: String| Err(Failure::new(Reason::Config, why));
    if id.is_empty() || id.contains(['/', ']', '\n']) {
        return refuse("this is no id of a repository; write letters, digits and dashes".to_owned());
    }
    if !keys.0.iter().any(|(key, _)| ADDRESSES.contains(&key.as_str())) {
        return refuse(NO_ADDRESS.to_owned());
    }
    let mut lines = vec![format!("[{id}]")];
    for (key, value) in &keys.0 {
        if key.contains(['\n', '=', '[']) {
            return refuse("one of its keys is no word; correct it".to_owned());
        }
        let value = match scalar::boolean(value) {
            Some(truth) => u8::from(truth).to_string(),
            // The further lines of a value are indented, or they would be keys.
            None => value.trim_end().lines().collect::<Vec<_>>().join("\n "),
        };
        lines.push(format!("{key} = {value}"));
    }
    if !keys.0.iter().any(|(key, _)| key == "name") {
        lines.push(format!("name = {id}"));
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::system::FileOptions;

    fn run(user_data: &str, distro: &str) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        context.system.write("/etc/os-release", distro, FileOptions::default()).unwrap();
        context.system.write("/etc/yum.repos.d/own.repo", "[own]\n", FileOptions::default()).unwrap();
        let handled = context.run_handler::<YumRepos>();
        (tree, context, handled)
    }

    #[test]
    fn a_good_repository_is_written_beside_bad_ones_and_those_of_the_image_stay() {
        let user_data = "yum_repos:\n  My Repo: {name: Mine, baseurl: 'http://x/$basearch/', enabled: false, gpgcheck: true, \
            priority: 10, gpgkey: [a, b]}\n  own: {baseurl: 'http://y'}\n  bad: {name: x}\n  ../up: {baseurl: x}\n  \
            secret: {metalink: 'http://z', password: hunter2}\n";
        let (_tree, mut context, handled) = run(user_data, "ID=rocky\nID_LIKE=rhel");
        let failure = handled.unwrap_err();
        assert!(failure.message.contains("yum_repos.bad: it has none of baseurl, metalink"), "{}", failure.message);
        assert!(failure.message.contains("yum_repos.../up: this is no id of a repository"), "{}", failure.message);
        assert!(!format!("{failure:?}").contains("hunter2"));
        let read = |name: &str| context.system.read_text(format!("/etc/yum.repos.d/{name}.repo")).unwrap();
        assert_eq!(
            read("my-repo"),
            "[my-repo]\nname = Mine\nbaseurl = http://x/$basearch/\nenabled = 0\ngpgcheck = 1\npriority = 10\ngpgkey = a\n b\n"
        );
        assert_eq!(read("own"), "[own]\n");
        assert_eq!(read("secret"), "[secret]\nmetalink = http://z\npassword = hunter2\nname = secret\n");
        assert_eq!(context.system.metadata("/etc/yum.repos.d/secret.repo").unwrap().mode() & 0o777, 0o600);
        let again = context.run_handler::<YumRepos>().unwrap_err();
        assert_eq!(again.detail, failure.detail);
    }

    #[test]
    fn a_repository_of_the_wrong_type_hides_no_other_and_is_not_written_in_half() {
        let user_data = "yum_repos: {a: {baseurl: x, gpgcheck: {}}, b: [y], c: {baseurl: z}}";
        let (_tree, context, handled) = run(user_data, "ID=fedora");
        handled.unwrap();
        assert_eq!(context.system.list("/etc/yum.repos.d").unwrap(), ["c.repo", "own.repo"]);
        let told = crate::handlers::read_keys::<Config>(&context.config).diagnostics;
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "user-data:1:39: error: yum_repos.a.gpgcheck: expected text, found a mapping",
                "user-data:1:47: error: yum_repos.b: expected a mapping, found a list"
            ]
        );
    }

    #[test]
    fn a_repository_without_an_address_is_told_before_anything_runs() {
        let context =
            Context::for_test(std::path::Path::new("/nowhere"), "yum_repos: {a: {name: x}, b: {metalink: y}, c: z}");
        let told = YumRepos::check(&context.config);
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, [format!("user-data:1:13: warning: yum_repos.a: {NO_ADDRESS}")]);
    }

    #[test]
    fn debian_has_no_yum_and_another_folder_may_be_named() {
        let user_data = "{yum_repos: {a: {mirrorlist: 'http://x'}}, yum_repo_dir: /etc/other/}";
        let (_tree, context, handled) = run(user_data, "ID=debian");
        assert!(matches!(handled, Ok(Outcome::Skipped(Reason::Unsupported, _))));
        assert!(!context.system.exists("/etc/other"));
        let (_tree, context, handled) = run(user_data, "ID=fedora");
        handled.unwrap();
        assert_eq!(context.system.read_text("/etc/other/a.repo").unwrap(), "[a]\nmirrorlist = http://x\nname = a\n");
        assert!(matches!(run("yum_repos:", "ID=fedora").2, Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }
}
