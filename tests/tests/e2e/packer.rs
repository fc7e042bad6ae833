//! What users of packer complain of most, each with the answer that a bake gives: see the list in the
//! module's tests, `pain_N_...`. Packer is the real one; where it must fail in a way that cannot be had
//! here, a wrapper around it does.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use aws_sdk_ec2::types::{Filter, InstanceStateName};
use kiln_tests::{Ran, lab, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder with a kiln.yaml of one app on the golden image.
struct Project {
    folder: tempfile::TempDir,
    app: &'static str,
}

impl Project {
    /// `more` are keys of the app.
    fn new(app: &'static str, more: &str) -> Project {
        lab().golden();
        let project = Project { folder: tempfile::tempdir().unwrap(), app };
        project.write(
            "kiln.yaml",
            &format!(
                "defaults: {{target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}}\n\
                 images:\n  {app}:\n    layer: app\n    from: {{ami: {{owners: [self], name: \"golden-12*\"}}}}\n    \
                 {more}\ntargets:\n  lab: {{kind: amazon-ebs, endpoint: lab}}\n"
            ),
        );
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A bake that is not spared by what an earlier run of the tests has left in the lab.
    fn bake(&self, more: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(["bake", self.app, "--rebuild", "--report", "report"]).args(more).current_dir(&self.folder);
        command
    }

    fn report(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join("report").join(name)).unwrap()
    }

    /// Bakes, and sends signals as soon as a line of the output has the mark.
    fn interrupted(&self, mark: &str, signals: &[Signal]) -> Ran {
        let mut command = self.bake(&["--format", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let mut stdout = String::new();
        let mut sent = false;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains(mark) && !sent {
                sent = true;
                for (number, signal) in signals.iter().enumerate() {
                    // Two signals at once would be one.
                    std::thread::sleep(std::time::Duration::from_millis(if number > 0 { 100 } else { 0 }));
                    kill(pid, *signal).unwrap();
                }
            }
            stdout += &(line + "\n");
        }
        assert!(sent, "no line has {mark}: {stdout}");
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ran { code: child.wait().unwrap().code().unwrap_or(-1), stdout, stderr }
    }

    /// What the API has of this app's bakes but images that passed: looked for by name, as tags come last.
    fn left(&self) -> Vec<String> {
        let lab = lab();
        let mine = format!("kiln-{}-", self.app);
        let run = Filter::builder().name("tag:kiln_run").values(format!("{mine}*")).build();
        let mut left = Vec::new();
        let found = lab.block_on(lab.ec2.describe_instances().filters(run.clone()).send()).unwrap();
        for instance in found.reservations().iter().flat_map(|reservation| reservation.instances()) {
            let state = instance.state().unwrap().name().unwrap();
            if *state != InstanceStateName::Terminated {
                left.push(format!("{} is {state}", instance.instance_id().unwrap()));
            }
        }
        let volumes = lab.block_on(lab.ec2.describe_volumes().filters(run).send()).unwrap();
        left.extend(volumes.volumes().iter().map(|volume| volume.volume_id().unwrap().to_owned()));
        let keys = lab.block_on(lab.ec2.describe_key_pairs().send()).unwrap();
        let names = keys.key_pairs().iter().filter_map(|key| key.key_name());
        left.extend(names.filter(|name| name.starts_with(&mine)).map(|name| format!("key pair {name}")));
        let named = Filter::builder().name("name").values(format!("{}-*", self.app)).build();
        let images = lab.block_on(lab.ec2.describe_images().owners("self").filters(named).send()).unwrap();
        let bare = images.images().iter().filter(|image| !image.tags().iter().any(|tag| tag.key() == Some("gate")));
        left.extend(bare.map(|image| format!("{} has no gate", image.image_id().unwrap())));
        let snapshots = lab.block_on(lab.ec2.describe_snapshots().owner_ids("self").send()).unwrap();
        let of = |image: &aws_sdk_ec2::types::Image| {
            let devices = image.block_device_mappings().iter();
            devices.filter_map(|device| Some(device.ebs()?.snapshot_id()?.to_owned())).collect::<Vec<_>>()
        };
        let known: Vec<_> = images.images().iter().flat_map(of).collect();
        let marks = format!("{}-", self.app);
        let mine = snapshots.snapshots().iter().filter(|snapshot| {
            snapshot.tags().iter().any(|tag| tag.value().is_some_and(|value| value.starts_with(&marks)))
        });
        let ids =
            mine.filter_map(|snapshot| snapshot.snapshot_id()).filter(|id| !known.iter().any(|other| other == id));
        left.extend(ids.map(|id| format!("snapshot {id}")));
        left
    }

    fn must_be_interrupted(&self, ran: &Ran, by: &str) {
        assert_eq!(ran.code, 1, "{ran:?}");
        let said = format!("interrupted by {by}");
        assert!(ran.stdout.contains(&said) || ran.stderr.contains(&said), "{ran:?}");
        assert_eq!(self.left(), Vec::<String>::new(), "{ran:?}");
        assert!(!self.folder.path().join("report/work").exists(), "the folder with the inputs is gone");
    }
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_2_a_bake_that_is_cancelled_once_or_twice_leaves_nothing() {
    let project = Project::new("cancelled", "provision: [slow.sh]");
    project.write("slow.sh", "#!/bin/sh\nsleep 60\n");
    let once = project.interrupted("\"launch\"", &[Signal::SIGINT]);
    project.must_be_interrupted(&once, "SIGINT");
    assert!(once.stdout.contains("nothing of it is left"), "packer cleans up itself when it is let: {once:?}");
    let twice = project.interrupted("slow.sh", &[Signal::SIGINT, Signal::SIGINT]);
    project.must_be_interrupted(&twice, "SIGINT");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_3_an_image_that_was_begun_when_its_bake_was_cancelled_is_found_by_its_name() {
    let project = Project::new("begun", "role: begun");
    // Twice, so that packer is killed with the image made and its tags not yet on it, and cannot take it away.
    let ran = project.interrupted("\"tag\"", &[Signal::SIGTERM, Signal::SIGTERM]);
    project.must_be_interrupted(&ran, "SIGTERM");
    assert!(project.report("packer.log").contains("AMI: ami-"), "there was an image");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_bake_that_is_not_done_in_time_is_ended_and_leaves_nothing() {
    let project = Project::new("late", "provision: [slow.sh]");
    project.write("slow.sh", "#!/bin/sh\nsleep 60\n");
    let ran: Ran = project.bake(&["--timeout", "4s"]).output().unwrap().into();
    project.must_be_interrupted(&ran, "its deadline of 4s");
}

/// The real packer, but that it sets no tags, gives up on an image that takes long, and writes no record of it.
const IMPATIENT: &str = r#"#!/bin/sh
[ "$1" = build ] || exec /usr/bin/packer "$@"
sed -i 's/^      "tags": {/      "run_tags_of_nobody": {/; /run_tags_of_nobody/,/},/d' template.json
/usr/bin/packer "$@" | sed -e '/Waiting for AMI to become ready/,$d'
rm -f manifest.json
cat <<'END'
1795531293,,ui,error,==> adopted: Error waiting for AMI: ResourceNotReady: exceeded wait attempts
1795531293,,ui,error,Build 'adopted' errored after 1 second: Error waiting for AMI: ResourceNotReady: exceeded wait attempts
END
exit 1
"#;

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_4_an_image_that_packer_gave_up_on_is_adopted_when_it_is_there_with_all_its_tags() {
    let project = Project::new("adopted", "role: adopted");
    project.write("packer", IMPATIENT);
    let path = format!("{}:{}", project.folder.path().display(), std::env::var("PATH").unwrap());
    let ran: Ran = project.bake(&[]).env("PATH", path).output().unwrap().into();
    assert!(ran.ok() && ran.stdout.contains(" done "), "{ran:?}");
    let id = ran.stdout.split_whitespace().rev().find(|word| word.starts_with("ami-")).unwrap();
    let lab = lab();
    let found = lab.block_on(lab.ec2.describe_images().image_ids(id).send()).unwrap();
    let tags: Vec<_> = found.images()[0].tags().iter().filter_map(|tag| tag.key()).collect();
    assert!(["gate", "bake_key", "ancestor", "application"].iter().all(|key| tags.contains(key)), "{tags:?}");
    assert_eq!(project.left(), Vec::<String>::new());
    assert!(project.report("packer.log").contains("ResourceNotReady"), "the reason is kept");
}

/// Installs something while something else is being installed, as a timer of the base does after its boot.
const BUSY: &str = r"#!/bin/sh
set -e
mkdir -p p/DEBIAN
printf '%s\n' 'Package: slow' 'Version: 1' 'Architecture: all' 'Maintainer: ann' 'Description: slow' >p/DEBIAN/control
printf '#!/bin/sh\ntouch /run/slow\nsleep 2\n' >p/DEBIAN/postinst
chmod 0755 p/DEBIAN p/DEBIAN/postinst
dpkg-deb -b p p.deb
dpkg -i p.deb &
until [ -e /run/slow ]; do sleep 0.1; done
apt-get -y install base-files
wait
";

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_10_a_script_that_installs_waits_for_an_installation_of_the_boot() {
    let project = Project::new("waits", "provision: [busy.sh]");
    project.write("busy.sh", BUSY);
    let ran: Ran = project.bake(&[]).output().unwrap().into();
    assert!(ran.ok(), "{ran:?}");
    assert!(project.report("packer.log").to_lowercase().contains("waiting for cache lock"), "it had to wait");
}

/// No part of them is a word that anything else has.
const IN_USER_DATA: &str = "Tulip,42\"%";
const IN_ENVIRONMENT: &str = "Crocus;77,x";

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_15_a_secret_of_user_data_or_of_the_environment_is_nowhere_whether_the_bake_fails_or_not() {
    let more = r#"user_data:
      users: [default, {name: ann, plain_text_passwd: 'Tulip,42"%'}]
      runcmd:
      - |
        systemd-cat -t app sh <<'END'
        echo 'the password is Tulip,42"%, or Crocus;77,x'
        sleep 0.2
        END
    provision: [leak.sh]
    tests: [leak.bats]"#;
    let project = Project::new("leaks", more);
    project.write("leak.sh", "#!/bin/sh\necho 'DB: Tulip,42\"% and Crocus;77,x'\n");
    for (test, code) in [("true", 0), ("false", 1)] {
        let said = "echo 'Tulip,42\"% Crocus;77,x'";
        project.write("leak.bats", &format!("@test \"leaks\" {{\n  {said} >&3\n  {said}\n  {test}\n}}\n"));
        let _ = fs::remove_dir_all(project.folder.path().join("report"));
        let ran: Ran = project.bake(&["--format", "json"]).env("DB_PASSWORD", IN_ENVIRONMENT).output().unwrap().into();
        assert_eq!(ran.code, code, "{ran:?}");
        let log = project.report("packer.log");
        assert!(log.contains("DB: <secret> and <secret>"), "the script has leaked: {log}");
        assert!(project.report("journal.txt").contains("the password is <secret>, or <secret>"), "the boot has leaked");
        assert!(project.report("tests.tap").contains("<secret> <secret>"), "the test has leaked");
        for secret in [IN_USER_DATA, IN_ENVIRONMENT] {
            let quoted = serde_json::to_string(secret).unwrap();
            for form in [secret, quoted.trim_matches('"')] {
                assert!(!ran.stdout.contains(form) && !ran.stderr.contains(form), "{form}: {ran:?}");
                assert_eq!(files_with(project.folder.path().join("report").as_path(), form), Vec::<String>::new());
            }
        }
    }
}

fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let output = Command::new("grep").args(["-rlaF", "-e", text]).arg(folder).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
