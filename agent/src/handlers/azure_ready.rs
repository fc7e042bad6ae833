//! Telling Azure that a machine is set up.
//!
//! Azure waits for it, and gives a machine up that says nothing. It is told when keys and users are
//! there, and not after packages and scripts, which may take longer than Azure waits. Where no source
//! gave an instance, Azure is told that, so that whoever ordered the machine sees why it failed.

use kiln_schema::status::{Reason, Stage};
use serde_json::json;

use super::scripts::NoKeys;
use super::{Finds, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::datasources::{self, azure};

/// Tells Azure that the machine is set up.
pub struct AzureReady;

impl Handler for AzureReady {
    const NAME: &'static str = "azure_ready";
    const SUMMARY: &'static str = "Tells Azure that the machine is set up";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|system, _, _| azure::is_azure(system));
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        let failure = why_none(context);
        if failure.is_none() && context.instance.source != "azure" {
            let message = format!("the source is `{}`, and who set that up tells Azure", context.instance.source);
            return Ok(Outcome::Skipped(Reason::NothingToDo, message));
        }
        // Under a tree there is nobody to tell: the host is no machine of Azure.
        if !context.system.is_live() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "only a running machine is waited for".to_owned()));
        }
        azure::report(failure.as_deref(), context.deadline)
            .map_err(|e| e.because("Azure was not told of this machine"))?;
        Ok(Outcome::Ok(Some(json!({"told": if failure.is_none() { "ready" } else { "not ready" }}))))
    }
}

/// Why no source gave an instance, if none did.
fn why_none(context: &Context) -> Option<String> {
    if context.instance.source != datasources::NONE {
        return None;
    }
    let diagnostics = context.status_so_far().diagnostics;
    diagnostics.into_iter().find(|finding| finding.source == "datasource").map(|finding| finding.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::Instance;
    use crate::report::Report;
    use crate::system::FileOptions;
    use kiln_schema::diagnostic::Diagnostic;

    fn context(tree: &std::path::Path, source: &str) -> Context {
        let mut context = Context::for_test(tree, "{}");
        context.instance = std::sync::Arc::new(Instance::new(source, "i-1"));
        context
    }

    #[test]
    fn only_a_machine_of_azure_has_something_to_tell() {
        let tree = tempfile::tempdir().unwrap();
        let context = context(tree.path(), "azure");
        let finds = || AzureReady::FINDS.is_some_and(|finds| finds(&context.system, &context.config, &[]));
        assert!(!finds());
        let tag = "7783-7084-3265-9085-8269-3286-77\n";
        context.system.write("/sys/class/dmi/id/chassis_asset_tag", tag, FileOptions::default()).unwrap();
        assert!(finds());
    }

    #[test]
    fn a_tree_and_another_source_keep_still() {
        for (source, why) in [
            ("azure", "only a running machine"),
            ("nocloud", "the source is `nocloud`"),
            ("none", "the source is `none`"),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let outcome = context(tree.path(), source).run_handler::<AzureReady>().unwrap();
            assert!(matches!(&outcome, Outcome::Skipped(_, message) if message.starts_with(why)), "{outcome:?}");
        }
    }

    #[test]
    fn what_the_sources_lacked_is_what_azure_hears() {
        let tree = tempfile::tempdir().unwrap();
        let context = context(tree.path(), "none");
        assert_eq!(why_none(&context), None, "a machine that is to have none has not failed");
        let report = Report::begin(&context.system);
        report
            .diagnostics(vec![Diagnostic::error("user-data", "x"), Diagnostic::error("datasource", "no disk")])
            .unwrap();
        assert_eq!(why_none(&context.with_report(report)).as_deref(), Some("no disk"));
    }
}
