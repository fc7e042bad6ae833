//! The time zone.

use kiln_schema::diagnostic::nearest;
use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::put;
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::System;

/// Where the image has its zones.
const ZONES: &str = "/usr/share/zoneinfo";
/// The link that every program reads.
const LINK: &str = "/etc/localtime";

/// Sets the time zone.
pub struct Timezone;

/// Keys of the time zone.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// A zone below /usr/share/zoneinfo, such as `Europe/Berlin` or `UTC`.
    timezone: Option<String>,
}

impl Handler for Timezone {
    const NAME: &'static str = "timezone";
    const SUMMARY: &'static str = "Sets the time zone";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let system = &context.system;
        let zone = config.timezone.as_deref().map_or("", str::trim);
        if zone.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no time zone is given".to_owned()));
        }
        check(system, zone)?;
        let target = format!("{ZONES}/{zone}");
        let mut changed = !system.is_link_to(LINK, &target);
        if changed {
            system.link(LINK, &target)?;
        }
        // A file of Debian; Red Hat has the link alone.
        if !system.distro().is_red_hat() {
            changed |= put(system, "/etc/timezone", &format!("{zone}\n"), 0o644)?;
        }
        Ok(Outcome::Ok(Some(json!({"timezone": zone, "changed": changed}))))
    }
}

fn check(system: &System, zone: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    let is_file = |path: String| system.metadata(path).is_ok_and(|found| found.is_file());
    if zone.chars().all(plain) && !zone.starts_with('/') && is_file(format!("{ZONES}/{zone}")) {
        return Ok(());
    }
    let zones = zones(system)?;
    if zones.is_empty() {
        let message = format!("timezone: the image has no zones in {ZONES}; install the package tzdata into it");
        return Err(Failure::new(Reason::MissingProgram, message));
    }
    let advice = like(zone, &zones).map_or_else(
        || format!("name one below {ZONES}, such as Europe/Berlin"),
        |found| format!("did you mean `{found}`?"),
    );
    Err(Failure::new(Reason::Config, format!("timezone: there is no zone `{zone}`; {advice}")))
}

/// The zones of the image.
fn zones(system: &System) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in system.list(format!("{ZONES}/{folder}"))? {
            let zone = format!("{folder}{name}");
            // The same zones under two further names, and tables whose names have a dot.
            if name.contains('.') || matches!(zone.as_str(), "posix" | "right") || zone.matches('/').count() > 2 {
                continue;
            }
            match system.metadata(format!("{ZONES}/{zone}")) {
                Ok(metadata) if metadata.is_dir() => folders.push(format!("{zone}/")),
                Ok(_) => found.push(zone),
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// The zone that was meant: in other letters, by its city alone, or misspelled.
fn like(wanted: &str, zones: &[String]) -> Option<String> {
    let folded = wanted.replace(' ', "_");
    let city = |zone: &str| zone.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(&folded));
    let same = zones.iter().find(|zone| zone.eq_ignore_ascii_case(&folded));
    // `Europe/Berlin` before a link of the same city with a single name.
    let same = same.or_else(|| zones.iter().find(|zone| zone.contains('/') && city(zone)));
    same.cloned().or_else(|| nearest(&folded, zones.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    fn machine(user_data: &str, distro: &str) -> (tempfile::TempDir, Context) {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), user_data);
        let mut files = vec![("/etc/os-release", distro), ("/usr/share/zoneinfo/zone.tab", "")];
        files.extend(["/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Europe/Berlin"].map(|zone| (zone, "TZif2")));
        files.extend(["/usr/share/zoneinfo/America/New_York", "/usr/share/zoneinfo/posix/UTC"].map(|z| (z, "TZif2")));
        for (path, text) in files {
            context.system.write(path, text, FileOptions::default()).unwrap();
        }
        (tree, context)
    }

    #[test]
    fn debian_gets_link_and_file_and_a_second_run_changes_nothing() {
        let (_tree, mut context) = machine("timezone: America/New_York", "ID=debian");
        context.system.link(LINK, "/usr/share/zoneinfo/UTC").unwrap();
        let changed = |outcome| matches!(outcome, Outcome::Ok(Some(detail)) if detail["changed"] == true);
        assert!(changed(context.run_handler::<Timezone>().unwrap()));
        assert!(context.system.is_link_to(LINK, "/usr/share/zoneinfo/America/New_York"));
        assert_eq!(context.system.read_text("/etc/timezone").unwrap(), "America/New_York\n");
        assert!(!changed(context.run_handler::<Timezone>().unwrap()));
    }

    #[test]
    fn a_copy_of_a_zone_becomes_a_link_and_red_hat_gets_no_file() {
        let (_tree, mut context) = machine("timezone: UTC", "ID=amzn\nID_LIKE=fedora");
        context.system.write(LINK, "TZif2", FileOptions::default()).unwrap();
        context.run_handler::<Timezone>().unwrap();
        assert!(context.system.is_link_to(LINK, "/usr/share/zoneinfo/UTC"));
        assert!(!context.system.exists("/etc/timezone"));
    }

    #[test]
    fn a_zone_that_is_not_there_changes_nothing_and_names_the_nearest() {
        for (zone, sentence) in [
            ("Europe/Berln", "there is no zone `Europe/Berln`; did you mean `Europe/Berlin`?"),
            ("europe/berlin", "did you mean `Europe/Berlin`?"),
            ("new york", "did you mean `America/New_York`?"),
            ("Europe", "there is no zone `Europe`"),
            ("../../../etc/os-release", "there is no zone `../../../etc/os-release`"),
            ("/UTC", "there is no zone `/UTC`"),
            ("Xqqqqqqq/Zwwwwwww", "name one below /usr/share/zoneinfo"),
        ] {
            let (_tree, mut context) = machine(&format!("timezone: {zone}"), "ID=debian");
            let failure = context.run_handler::<Timezone>().unwrap_err();
            assert_eq!(failure.reason, Reason::Config);
            assert!(failure.message.contains(sentence), "{}", failure.message);
            assert!(!context.system.is_there(LINK) && !context.system.exists("/etc/timezone"));
        }
    }

    #[test]
    fn an_image_without_zones_says_what_it_needs_and_no_zone_is_nothing_to_do() {
        let tree = tempfile::tempdir().unwrap();
        let failure = Context::for_test(tree.path(), "timezone: UTC").run_handler::<Timezone>().unwrap_err();
        assert_eq!(failure.reason, Reason::MissingProgram);
        assert!(failure.message.contains("install the package tzdata"), "{}", failure.message);
        let outcome = Context::for_test(tree.path(), "timezone:").run_handler::<Timezone>().unwrap();
        assert!(matches!(outcome, Outcome::Skipped(Reason::NothingToDo, _)));
    }
}
