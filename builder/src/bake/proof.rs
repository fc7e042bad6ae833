//! The proof of an image: two instances of it, started at once and compared before it counts.
//!
//! Packer starts them, because it brings an instance, a key and a way in, cleans up when it is stopped,
//! and does so with what the bake was configured with. Its last step fails on purpose: no version of
//! packer leaves an image behind then, and not every one can be told to make none.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kiln_schema::seal::Evidence;
use kiln_schema::status::{OutcomeKind, State};
use serde::{Deserialize, Serialize};

use super::packer::{self, Cause};
use super::plan::Plan;
use super::progress::{Phase, Progress};
use super::session::Session;
use super::{Error, steps};
use crate::images::Bundle;
use crate::images::base::PROOF_TAG;
use crate::images::names::NOT_PROVED;
use crate::packer::events::{Event, without_prefix};
use crate::packer::key_pairs;
use crate::packer::template::{Api, Machine, Provisioner, Template, files as names};
use crate::system::files;
use crate::system::process::Stop;

/// The folder beside the bake's own files that packer works in.
pub const FOLDER: &str = "proof";
/// The file of the report.
pub const REPORT: &str = "proof.json";
/// What packer has said.
pub const LOG: &str = "proof.log";

/// What waits on each instance until its boot has its verdict, and takes what it tells of itself.
const LOOK: &str = include_str!("steps/look.sh");
const LOOK_NAME: &str = "look.sh";
/// The step that fails on purpose.
const END: &str = "#!/bin/sh\n# All that is wanted is at home: without a failure packer would make an image of this instance.\nexit 1\n";
const END_NAME: &str = "end.sh";
const EVIDENCE: &str = "/tmp/kiln-evidence.json";
/// Why there is a file and no evidence in it.
const TOO_OLD: &str = "its agent knows no `seal --booted`; bake with the agent's package of this version of kiln";
/// How long a step may take beside waiting for the boot.
const SHORT: Duration = Duration::from_secs(600);

/// What was found, for the report.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    schema: u32,
    /// Why the image does not count; none when the two are as they must be.
    cause: Option<String>,
    image: String,
    /// What each instance tells of itself; none of one that could not be asked.
    instances: Vec<Option<Evidence>>,
}

/// The names of the two builds.
pub fn builds(image: &str) -> [String; 2] {
    [format!("{image}-proof-1"), format!("{image}-proof-2")]
}

/// Whether the tags of an image say that nobody is to prove it.
pub fn is_off(tags: &[(String, String)]) -> bool {
    tags.iter().any(|(key, value)| key == PROOF_TAG && value == NOT_PROVED)
}

/// Whether an image may count: it was proved, as the report at home says, or is not to be.
pub fn stands(folder: &Path, tags: &[(String, String)], image: &str) -> bool {
    let proved = || {
        let proof: Proof = serde_json::from_slice(&std::fs::read(folder.join(REPORT)).ok()?).ok()?;
        Some(proof.cause.is_none() && proof.image == image)
    };
    is_off(tags) || proved() == Some(true)
}

/// Starts two instances of the image, compares them, and writes what was found into the report.
///
/// # Errors
/// Why the image must not count.
pub async fn prove(
    session: &Session<'_>,
    plan: &Plan,
    image: &str,
    work: &Path,
    folder: &Path,
    stop: &mut Stop,
    progress: &Progress,
) -> Result<(), Cause> {
    progress.phase(Phase::Prove, &format!("two instances of {image}"));
    let work = work.join(FOLDER);
    let builds = builds(&plan.recipe.name);
    let cannot = |error: Error| (format!("{image} cannot be proved: {error}"), vec![]);
    stage(&session.site.api, &session.site.region, session.site.bundle.as_ref(), plan, image, &work).map_err(cannot)?;
    let mut reasons = BTreeMap::new();
    let mut hear =
        |event: Option<&Event>| event.into_iter().for_each(|event| hear_reason(event, &builds, &mut reasons));
    let ended = packer::follow(session, plan, &work, &folder.join(LOG), stop, &mut hear).await;
    if let Some(signal) = ended.map_err(cannot)?.stopped_by {
        return Err((format!("interrupted by {signal}"), vec![]));
    }
    let scrubber = packer::scrubber(&session.site).and_user_data(plan.recipe.user_data.as_ref());
    let mut instances = Vec::new();
    for build in &builds {
        // An instance tells of failures in the words of its own programs.
        let clean = |text: Vec<u8>| scrubber.clean_bytes(&text).unwrap_or(text);
        let text = std::fs::read(work.join(evidence(build))).ok().map(clean);
        let told = text.as_ref().and_then(|text| serde_json::from_slice::<Evidence>(text).ok());
        if text.is_some() && told.is_none() {
            // Packer's own reason is then that of the last step.
            reasons.insert(build.clone(), TOO_OLD.to_owned());
        }
        instances.push(told);
    }
    let cause = wrong(&instances, &builds.map(|build| reasons.remove(&build)));
    let proof = Proof { schema: 1, cause, image: image.to_owned(), instances };
    // Types of this program alone: nothing in them can fail to be JSON.
    let text = serde_json::to_string_pretty(&proof).unwrap_or_default() + "\n";
    let path = folder.join(REPORT);
    files::write(&path, text.as_bytes(), 0o644).map_err(|error| cannot(Error::file(path.display(), error)))?;
    match proof.cause {
        Some(cause) => Err((cause, vec![])),
        None => Ok(()),
    }
}

/// The file at home that gets the evidence of a build.
fn evidence(build: &str) -> String {
    format!("evidence-{build}.json")
}

/// Fills the folder that packer runs in.
fn stage(api: &Api, region: &str, bundle: Option<&Bundle>, plan: &Plan, image: &str, work: &Path) -> Result<(), Error> {
    let at = |error| Error::file(work.display(), error);
    files::private_dir(work).map_err(at)?;
    let template = serde_json::to_string_pretty(&template(api, region, bundle, plan, image)).unwrap_or_default();
    let variables = format!(
        "timeout={}s\nseal={}\nevidence={EVIDENCE}\n",
        plan.recipe.gate_timeout.as_secs(),
        steps::quoted(&steps::seal_options(&plan.recipe)),
    );
    // As in the bake: what an instance does to the world outside, such as names in Route53, is off.
    let user_data = "#cloud-config\nkiln:\n  baking: true\n".to_owned();
    for (name, text) in [
        (names::TEMPLATE, template),
        (names::USER_DATA, user_data),
        (LOOK_NAME, format!("{variables}{LOOK}")),
        (END_NAME, END.to_owned()),
    ] {
        files::write(&work.join(name), text.as_bytes(), 0o600).map_err(at)?;
    }
    Ok(())
}

fn template(api: &Api, region: &str, bundle: Option<&Bundle>, plan: &Plan, image: &str) -> Template {
    let [_, first, second] = key_pairs(&plan.run.id);
    let [one, two] = builds(&plan.recipe.name);
    let machines = [(one, first), (two, second)].map(|(build, key_pair)| Machine {
        image: build,
        // Of an image that is never made.
        name: key_pair.clone(),
        description: String::new(),
        tags: Vec::new(),
        run: plan.run.id.clone(),
        key_pair,
        region: region.to_owned(),
        api: api.clone(),
        base: image.to_owned(),
        instance_type: plan.instance_type(),
        ssh_username: plan.recipe.ssh_username.clone(),
        key: None,
        bundle: bundle.cloned(),
        packer: plan.packer.clone(),
    });
    let [machine, _] = &machines;
    Template {
        builders: machines.iter().map(Machine::builder).collect(),
        provisioners: vec![
            machine.root_script(LOOK_NAME, plan.recipe.gate_timeout + SHORT),
            Provisioner::File {
                source: EVIDENCE.into(),
                destination: evidence("{{build_name}}"),
                direction: "download",
            },
            machine.root_script(END_NAME, SHORT),
        ],
        post_processors: vec![],
    }
}

/// Keeps packer's reason for giving up a build. That of the last step is one too, and says nothing then.
fn hear_reason(event: &Event, builds: &[String], reasons: &mut BTreeMap<String, String>) {
    let Event::Error(line) = event else { return };
    for build in builds {
        let text = without_prefix(line, build);
        if let Some(rest) = text.strip_prefix(&format!("Build '{build}' errored")) {
            let reason = rest.split_once(": ").map_or(rest, |(_, reason)| reason);
            reasons.insert(build.clone(), reason.to_owned());
        }
    }
}

/// What is not as it must be, in one sentence.
fn wrong(instances: &[Option<Evidence>], reasons: &[Option<String>]) -> Option<String> {
    let which = |index: usize| format!("instance {} of the new image", index + 1);
    let mut told = Vec::new();
    for (index, (instance, reason)) in instances.iter().zip(reasons).enumerate() {
        let Some(instance) = instance else {
            let reason = reason.as_deref().unwrap_or("packer gave no reason; proof.log may tell more");
            return Some(format!("{} cannot be asked: {reason}", which(index)));
        };
        told.push(instance);
    }
    for (index, instance) in told.iter().enumerate() {
        if let Some(why) = not_done(instance).or_else(|| found(instance)).or_else(|| lacks(instance)) {
            return Some(format!("{} {why}", which(index)));
        }
    }
    let (first, second) = (told.first()?, told.get(1)?);
    let mut same: Vec<&str> = Vec::new();
    for (path, digest) in &first.identity {
        // A public key is the other half of what is told already.
        let half = path.strip_suffix(".pub").is_some_and(|private| same.contains(&private));
        if second.identity.get(path) == Some(digest) && !half {
            same.push(path);
        }
    }
    (!same.is_empty()).then(|| {
        let same = same.join(", ");
        format!("two instances of the new image have the same {same}: the image brings it and the seal left it in")
    })
}

fn not_done(instance: &Evidence) -> Option<String> {
    let Some(status) = &instance.status else { return Some("has no status of the agent".to_owned()) };
    let failed = status.handlers.iter().find(|handler| handler.outcome == OutcomeKind::Failed);
    let why = failed.map(|handler| {
        format!(": handler {}: {}", handler.name, handler.message.as_deref().unwrap_or("failed without a message"))
    });
    (status.state != State::Done).then(|| format!("is {}{}", status.state.name(), why.unwrap_or_default()))
}

fn found(instance: &Evidence) -> Option<String> {
    let first = instance.findings.first()?;
    let more = match instance.findings.len() {
        1 => String::new(),
        count => format!("; {} more in {REPORT}", count - 1),
    };
    Some(format!("holds what the image must not bring: {}{more}", first.message))
}

/// Without these nothing was compared.
fn lacks(instance: &Evidence) -> Option<String> {
    let has = |start: &str| instance.identity.keys().any(|path| path.starts_with(start));
    let must = [("/etc/machine-id", "machine id"), ("/etc/ssh/ssh_host_", "SSH host key")];
    must.iter().find(|(start, _)| !has(start)).map(|(_, what)| format!("has no {what} of its own"))
}

#[cfg(test)]
mod tests {
    use kiln_schema::seal::Finding;
    use kiln_schema::status::{HandlerReport, Status};

    use super::*;
    use crate::packer::version;
    use crate::system::tools::{Tool, present};

    fn instance(number: u32) -> Evidence {
        let own = ["/etc/machine-id", "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub"];
        Evidence {
            schema: 1,
            status: Some(Status { state: State::Done, ..Status::new("0.1.0", "boot") }),
            identity: own.map(|path| (path.to_owned(), format!("SHA256:{path}{number}"))).into(),
            findings: vec![],
        }
    }

    fn judged(change: impl FnOnce(&mut Evidence)) -> Option<String> {
        let mut second = instance(2);
        change(&mut second);
        wrong(&[Some(instance(1)), Some(second)], &[None, None])
    }

    #[test]
    fn packer_is_told_to_start_two_and_to_make_none() {
        for api in [Api::Aws, Api::Lab("http://10.0.0.1:5000".into())] {
            let (inputs, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut plan = crate::bake::plan::tests::plan(inputs.path(), api.clone(), false);
            plan.recipe.seal.permit = [("/opt/*.pem".to_owned(), "tests".to_owned())].into();
            stage(&api, "eu-west-1", None, &plan, "ami-new", work.path()).unwrap();
            let read = |name: &str| std::fs::read_to_string(work.path().join(name)).unwrap();
            let template: serde_json::Value = serde_json::from_str(&read(names::TEMPLATE)).unwrap();
            let [one, two] = template["builders"].as_array().unwrap().as_slice() else { panic!("{template}") };
            for key in ["name", "ami_name", "temporary_key_pair_name"] {
                assert_ne!(one[key], two[key], "two cannot share a {key}");
            }
            for builder in [one, two] {
                assert_eq!((&builder["source_ami"], &builder["tags"]), (&"ami-new".into(), &serde_json::json!({})));
                // By which a later bake finds them.
                assert_eq!(builder["run_tags"]["kiln_run"], plan.run.id);
                assert!(
                    key_pairs(&plan.run.id).contains(&builder["temporary_key_pair_name"].as_str().unwrap().to_owned())
                );
            }
            let last = template["provisioners"].as_array().unwrap().last().unwrap();
            assert_eq!(last["script"], END_NAME);
            assert!(read(END_NAME).ends_with("\nexit 1\n") && template.get("post-processors").is_none());
            assert!(read(LOOK_NAME).starts_with("timeout=600s\nseal='--permit /opt/*.pem'\nevidence=/tmp/"));
            assert!(!read(names::USER_DATA).contains("hunter2"), "the bake's user-data is not the instances'");
            if present("packer") && version::probe(None).is_ok() {
                let tool = Tool::new("packer").args(["validate", names::TEMPLATE]).env("CHECKPOINT_DISABLE", "1");
                let answer = tool.within(work.path()).capture().unwrap();
                let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
                assert!(answer.status.success(), "{said}");
            } else {
                eprintln!("packer is not installed: nobody but us has checked the template");
            }
        }
    }

    #[test]
    fn two_that_differ_and_hold_nothing_are_a_proof() {
        assert_eq!(judged(|_| ()), None);
        // What only one of them has is its own.
        assert_eq!(
            judged(|second| drop(second.identity.insert("/var/lib/systemd/random-seed".into(), "x".into()))),
            None
        );
    }

    #[test]
    fn whatever_is_wrong_is_told_with_instance_and_file() {
        let same = |path: &str| instance(1).identity[path].clone();
        let put =
            |path: &'static str| move |second: &mut Evidence| drop(second.identity.insert(path.into(), same(path)));
        assert_eq!(
            judged(put("/etc/machine-id")).unwrap(),
            "two instances of the new image have the same /etc/machine-id: the image brings it and the seal left it in"
        );
        let keys = judged(|second| {
            put("/etc/ssh/ssh_host_rsa_key")(second);
            put("/etc/ssh/ssh_host_rsa_key.pub")(second);
        });
        assert!(keys.as_deref().unwrap().contains("the same /etc/ssh/ssh_host_rsa_key: "), "told once: {keys:?}");
        let finding = |path: &str| Finding { rule: "x".into(), path: path.into(), message: format!("{path}: a key") };
        assert_eq!(
            judged(|second| second.findings = vec![finding("/root/a"), finding("/root/b")]).unwrap(),
            "instance 2 of the new image holds what the image must not bring: /root/a: a key; 1 more in proof.json"
        );
        assert_eq!(
            judged(|second| drop(second.identity.remove("/etc/machine-id"))).unwrap(),
            "instance 2 of the new image has no machine id of its own"
        );
        let failed = |second: &mut Evidence| {
            let status = second.status.as_mut().unwrap();
            status.state = State::Failed;
            let report = r#"{"name":"mounts","stage":"init","outcome":"failed","started":"","duration_ms":1,
                             "reason":null,"message":"no disk","detail":null}"#;
            status.handlers = vec![serde_json::from_str::<HandlerReport>(report).unwrap()];
        };
        assert_eq!(judged(failed).unwrap(), "instance 2 of the new image is failed: handler mounts: no disk");
        assert_eq!(
            judged(|second| second.status = None).unwrap(),
            "instance 2 of the new image has no status of the agent"
        );
    }

    #[test]
    fn an_instance_that_cannot_be_asked_is_told_with_packers_reason() {
        let builds = builds("golden");
        let mut reasons = BTreeMap::new();
        for line in
            ["Build 'golden-proof-2' errored after 1 minute: Timeout waiting for SSH.", "==> golden-proof-1: oh"]
        {
            hear_reason(&Event::Error(line.to_owned()), &builds, &mut reasons);
        }
        let cause = wrong(&[Some(instance(1)), None], &builds.map(|build| reasons.remove(&build)));
        assert_eq!(cause.unwrap(), "instance 2 of the new image cannot be asked: Timeout waiting for SSH.");
    }

    #[test]
    fn a_killed_bake_keeps_its_image_only_with_a_proof_that_stands() {
        let folder = tempfile::tempdir().unwrap();
        let off = [(PROOF_TAG.to_owned(), NOT_PROVED.to_owned())];
        assert!(!stands(folder.path(), &[], "ami-1") && stands(folder.path(), &off, "ami-1"));
        for (cause, expected) in [(None, true), (Some("two are one".to_owned()), false)] {
            let proof = Proof { schema: 1, cause, image: "ami-1".into(), instances: vec![Some(instance(1)), None] };
            files::write(&folder.path().join(REPORT), &serde_json::to_vec(&proof).unwrap(), 0o644).unwrap();
            assert_eq!(stands(folder.path(), &[], "ami-1"), expected);
            assert!(!stands(folder.path(), &[], "ami-2"), "the proof is of another image");
        }
    }
}
