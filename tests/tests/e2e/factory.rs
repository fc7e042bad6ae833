//! The whole graph is baked: parents first, only what changed, and never twice, whoever is killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{Filter, InstanceStateName};
use kiln_tests::{Ran, lab, program};

/// A folder with a kiln.yaml, in which kiln runs as its user would run it.
pub(super) struct Project(pub(super) tempfile::TempDir);

impl Project {
    pub(super) fn new(kiln_yaml: &str) -> Project {
        let project = Project(tempfile::tempdir().unwrap());
        project.write("kiln.yaml", kiln_yaml);
        project.write("ok.bats", "@test \"there is a root\" { [ -d / ]; }\n");
        project
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.0.path());
        command
    }

    pub(super) fn kiln(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// Bakes, and sorts the images by the event that ended them.
    pub(super) fn bake(&self, args: &[&str]) -> (Vec<String>, Vec<String>, Ran) {
        let ran = self.kiln(&[&["bake", "--format", "json"], args].concat());
        let events: Vec<serde_json::Value> =
            ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let named = |event: &str| {
            let ends = events.iter().filter(|line| line["event"] == event);
            ends.map(|line| line["application"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (named("done"), named("unchanged"), ran)
    }
}

/// One golden, three bases, nine apps, and an image that is built on none of them.
fn thirteen() -> String {
    let mut text = "defaults: {target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}\n\
         images:\n  \
         g: {layer: golden, from: {ami: {owners: [self], name: \"golden-12*\"}}, provision: [golden.sh]}\n  \
         aside: {layer: golden, from: {ami: {owners: [self], name: \"golden-12*\"}}}\n"
        .to_owned();
    for base in ["g-b1", "g-b2", "g-b3"] {
        // Children stand before their parents, as they may.
        for app in 1..=3 {
            text += &format!("  {base}-a{app}: {{layer: app, from: {base}, role: a{app}, tests: [ok.bats]}}\n");
        }
        text += &format!("  {base}: {{layer: base, from: g, tests: [ok.bats]}}\n");
    }
    text + "targets:\n  lab: {kind: amazon-ebs, endpoint: lab}\n"
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_graph_is_baked_in_order_and_again_only_what_changed() {
    lab().golden();
    let project = Project::new(&thirteen());
    project.write("golden.sh", "#!/bin/sh\necho 1 >/etc/golden\n");
    let (done, unchanged, ran) = project.bake(&["--all", "--parallel", "4"]);
    assert_eq!((done.len(), unchanged.len(), ran.code), (14, 0, 0), "{ran:?}");
    let at = |name: &str| done.iter().position(|other| other == name).unwrap();
    assert!(at("g") < at("g-b2") && at("g-b2") < at("g-b2-a3"), "{done:?}");

    let begun = Instant::now();
    let (done, unchanged, ran) = project.bake(&["--all"]);
    assert_eq!((done.len(), unchanged.len(), ran.code), (0, 14, 0), "{ran:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "nothing to do took {:?}", begun.elapsed());

    project.write("golden.sh", "#!/bin/sh\necho 2 >/etc/golden\n");
    let (done, unchanged, ran) = project.bake(&["--stale", "--parallel", "4"]);
    assert_eq!((done.len(), unchanged, ran.code), (13, vec!["aside".to_owned()], 0), "{ran:?}");
    assert!(ran.stdout.contains("changed: scripts"), "a miss names its input: {}", ran.stdout);
    assert!(ran.stdout.contains("changed: base"), "{}", ran.stdout);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn what_is_built_on_a_failure_is_left_out_and_the_rest_is_baked() {
    lab().golden();
    let project = Project::new(
        "defaults: {target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}\n\
         images:\n  broken: {layer: base, from: {ami: {owners: [self], name: \"golden-12*\"}}, provision: [no.sh]}\n  \
         on-broken: {layer: app, from: broken}\n  whole: {layer: app, from: {ami: {owners: [self], name: \
         \"golden-12*\"}}}\ntargets:\n  lab: {kind: amazon-ebs, endpoint: lab}\n",
    );
    project.write("no.sh", "#!/bin/sh\necho that will not do\nexit 3\n");
    let ran = project.kiln(&["bake", "--all"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("broken: the script no.sh failed with exit code 3"), "{ran:?}");
    assert!(ran.stdout.contains("there is no new broken to build it on"), "{ran:?}");
    assert!(ran.stdout.contains("1 baked, 0 unchanged, 1 failed, 1 left out"), "{ran:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn two_bakes_of_one_image_make_it_once() {
    lab().golden();
    let project = Project::new(&one("twice"));
    project.write("content", "one\n");
    let start = || project.command(&["bake", "twice", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let ended = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let said = ended.iter().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).collect::<String>();
    assert!(ended.iter().all(|output| output.status.success()), "{said}");
    assert_eq!((said.matches("\"done\"").count(), said.matches("\"unchanged\"").count()), (1, 1), "{said}");
    assert!(said.contains("waiting for the bake of twice on "), "{said}");
    assert_eq!(left("twice", &BTreeSet::new()), Vec::<String>::new());
}

/// One app on the golden image.
pub(super) fn one(name: &str) -> String {
    format!(
        "defaults: {{target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}}\n\
         images:\n  {name}: {{layer: app, from: {{ami: {{owners: [self], name: \"golden-12*\"}}}}, files: [{{source: \
         content, destination: /etc/content}}], tests: [ok.bats]}}\n\
         targets:\n  lab: {{kind: amazon-ebs, endpoint: lab}}\n"
    )
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Victim {
    Kiln,
    Packer,
    Both,
}

/// How many points of a bake the test of kills tries; `KILN_KILLS` names another number.
const KILLS: u32 = 6;

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_2_kill_9_at_any_point_leaves_nothing_after_the_next_bake_and_the_image_once() {
    lab().golden();
    let kills = std::env::var("KILN_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(KILLS);
    let project = Project::new(&one("killed"));
    project.write("content", "a bake that is not killed tells how long one takes\n");
    let begun = Instant::now();
    assert!(project.kiln(&["bake", "killed"]).ok());
    let whole = begun.elapsed();
    // A lab that was kept has some of an earlier run.
    let before = images("killed");
    for number in 0..kills {
        let victim = [Victim::Kiln, Victim::Packer, Victim::Both][number as usize % 3];
        // Over the whole of a bake, a little before its end in the last round.
        let point = whole * (2 * number + 1) / (2 * kills);
        // Nothing that was baked before, also in a lab that was kept.
        project.write("content", &format!("{} {number}\n", project.0.path().display()));
        let mut child =
            project.command(&["bake", "killed"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(point);
        let groups = groups_in(project.0.path());
        strike(victim, &mut child, project.0.path());
        let _ = child.wait();

        let (done, unchanged, ran) = project.bake(&["killed"]);
        assert_eq!((ran.code, done.len() + unchanged.len()), (0, 1), "{victim:?} at {point:?}: {ran:?}");
        assert_eq!(left("killed", &groups), Vec::<String>::new(), "{victim:?} at {point:?}: {ran:?}");
        assert!(!workers(project.0.path()).any(|_| true), "{victim:?} at {point:?} left a process");
        // As often as a bake has ended, and not once more: nothing is made twice.
        assert_eq!(images("killed"), before + number as usize + 1, "{victim:?} at {point:?}: {ran:?}");
    }
}

pub(super) fn strike(victim: Victim, kiln: &mut Child, folder: &Path) {
    if matches!(victim, Victim::Kiln | Victim::Both) {
        let _ = kiln.kill();
    }
    if matches!(victim, Victim::Packer | Victim::Both) {
        for process in workers(folder) {
            let process = nix::unistd::Pid::from_raw(process);
            let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The processes that work in a folder of the project: packer and what it has started.
fn workers(folder: &Path) -> impl Iterator<Item = i32> {
    let folder = folder.to_owned();
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(move |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd: PathBuf| cwd.starts_with(&folder) && cwd != folder)
    })
}

/// The security groups that packer has announced in this project's folders; it does not tag them.
pub(super) fn groups_in(folder: &Path) -> BTreeSet<String> {
    let reports = fs::read_dir(folder.join("kiln-reports")).into_iter().flatten().filter_map(Result::ok);
    let said = reports.filter_map(|report| fs::read_to_string(report.path().join("work/packer.out")).ok());
    said.flat_map(|text| {
        let names = text.split("Creating temporary security group for this instance: ").skip(1);
        names.filter_map(|rest| Some(rest.split_whitespace().next()?.to_owned())).collect::<Vec<_>>()
    })
    .collect()
}

/// What the API has of an image's bakes beside its images: living instances, key pairs, security groups,
/// leases, volumes, and images that nobody vouches for.
pub(super) fn left(image: &str, groups: &BTreeSet<String>) -> Vec<String> {
    let lab = lab();
    let mine = format!("kiln-{image}-");
    let run = Filter::builder().name("tag:kiln_run").values(format!("{mine}*")).build();
    let mut left = Vec::new();
    let instances = lab.block_on(lab.ec2.describe_instances().filters(run.clone()).send()).unwrap();
    for instance in instances.reservations().iter().flat_map(|reservation| reservation.instances()) {
        let state = instance.state().unwrap().name().unwrap();
        if *state != InstanceStateName::Terminated {
            left.push(format!("{} is {state}", instance.instance_id().unwrap()));
        }
    }
    let volumes = lab.block_on(lab.ec2.describe_volumes().filters(run).send()).unwrap();
    left.extend(volumes.volumes().iter().map(|volume| volume.volume_id().unwrap().to_owned()));
    let keys = lab.block_on(lab.ec2.describe_key_pairs().send()).unwrap();
    let names = keys.key_pairs().iter().filter_map(|key| key.key_name()).filter(|name| name.starts_with(&mine));
    left.extend(names.map(|name| format!("key pair {name}")));
    let all = lab.block_on(lab.ec2.describe_security_groups().send()).unwrap();
    let names = all.security_groups().iter().filter_map(|group| group.group_name());
    left.extend(names.filter(|name| groups.contains(*name)).map(|name| format!("security group {name}")));
    let leases = lab.block_on(lab.ec2.describe_launch_templates().send()).unwrap();
    let names = leases.launch_templates().iter().filter_map(|template| template.launch_template_name());
    let ours = |name: &&str| name.starts_with(&format!("kiln-lease-{image}-")) || name.starts_with(&mine);
    left.extend(names.filter(ours).map(str::to_owned));
    let named = Filter::builder().name("name").values(format!("{image}-*")).build();
    let images = lab.block_on(lab.ec2.describe_images().owners("self").filters(named).send()).unwrap();
    let passed = |image: &aws_sdk_ec2::types::Image| image.tags().iter().any(|tag| tag.key() == Some("gate"));
    let bare = images.images().iter().filter(|image| !passed(image));
    left.extend(bare.map(|image| format!("{} has no gate", image.image_id().unwrap())));
    left
}

/// How many images of this name there are.
pub(super) fn images(image: &str) -> usize {
    let lab = lab();
    let named = Filter::builder().name("name").values(format!("{image}-*")).build();
    lab.block_on(lab.ec2.describe_images().owners("self").filters(named).send()).unwrap().images().len()
}
