//! Bases from outside: a locked one does not move, and one of a stranger is never taken.

use std::path::Path;

use kiln_tests::{Ran, kiln, lab};

/// The account that the lab is.
const OWN: &str = "123456789012";
const STRANGER: &str = "666666666666";

/// A folder with a kiln.yaml, as a project has it.
struct Project(tempfile::TempDir);

impl Project {
    fn new(images: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "defaults: {{target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}}\n{images}\
             targets:\n  lab: {{kind: amazon-ebs, endpoint: lab}}\n"
        );
        std::fs::write(folder.path().join("kiln.yaml"), text).unwrap();
        Project(folder)
    }

    fn kiln(&self, args: &[&str]) -> Ran {
        kiln(&[&["-f", self.0.path().join("kiln.yaml").to_str().unwrap()], args].concat())
    }

    fn bake(&self) -> Ran {
        let report = self.0.path().join("report");
        self.kiln(&["bake", "moving", "--report", report.to_str().unwrap()])
    }

    fn lock_file(&self) -> std::path::PathBuf {
        self.0.path().join("kiln.lock")
    }
}

/// A word of this run: the lab may still have the images of the last one.
fn word(name: &str) -> String {
    format!("{name}-{:x}", std::process::id())
}

/// The golden image once more, under this name and without its tags, as somebody else would publish one.
fn publish(name: &str) -> String {
    let lab = lab();
    let call = lab.ec2.copy_image().source_image_id(lab.golden()).source_region(&lab.access.region).name(name);
    let id = lab.block_on(call.send()).unwrap().image_id().unwrap().to_owned();
    lab.becomes_available(&id);
    id
}

fn import(name: &str, owner: &str, more: &[&str]) -> String {
    let name = ["lab", "import", "target/foundation", "--name", name, "--owner", owner];
    let ran = kiln(&[&name, more].concat());
    assert!(ran.ok(), "{ran:?}");
    ran.stdout.trim().to_owned()
}

fn deregister(id: &str) {
    let lab = lab();
    lab.block_on(lab.ec2.deregister_image().image_id(id).send()).unwrap();
}

#[track_caller]
fn says(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_base_that_moves_is_not_taken_while_it_is_locked() {
    let name = word("moving");
    let (old, new) = (format!("{name}-1"), format!("{name}-2"));
    let (first, stranger) = (publish(&old), import(&format!("{name}-9"), STRANGER, &[]));
    let project = Project::new(&format!(
        "images:\n  moving: {{layer: app, from: {{ami: {{owners: [\"{OWN}\"], name: \"{name}-*\"}}}}}}\n"
    ));
    says(&project.kiln(&["lock"]), 0, &[&format!("moving: locked {old}"), &first, OWN, "kiln.lock: written"]);
    let baked = project.bake();
    says(&baked, 0, &[&format!("on {old} ({first})")]);
    assert!(!baked.stdout.contains("kiln.lock"), "it is locked, so nothing is to be said of it: {baked:?}");
    says(&project.kiln(&["outdated"]), 0, &["nothing is out of date"]);

    let second = publish(&new);
    says(&project.bake(), 0, &["unchanged"]);
    says(&project.kiln(&["lock"]), 0, &[&format!("moving: kept {old}"), "kiln.lock: unchanged"]);
    says(&project.kiln(&["outdated"]), 2, &[&old, &new, "kiln lock moving --update"]);
    let rows = project.kiln(&["outdated", "--format", "json"]).stdout;
    assert!(rows.contains("\"state\":\"moved\"") && rows.contains(&second) && !rows.contains(&stranger), "{rows}");

    says(&project.kiln(&["lock", "--update"]), 0, &[&format!("moved from {old}"), &format!("to {new}"), &second]);
    says(&project.kiln(&["outdated"]), 2, &[&format!("image moving: built on {old}"), "kiln bake moving"]);
    let baked = project.bake();
    says(&baked, 0, &[&format!("on {new} ({second})"), &format!("changed: base (it was {old})")]);
    assert!(!baked.stdout.contains(&stranger), "{baked:?}");
    says(&project.kiln(&["outdated"]), 0, &["nothing is out of date"]);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_locked_base_that_is_not_what_was_locked_is_refused() {
    let name = word("fixed");
    let id = publish(&name);
    let project = Project::new(&format!(
        "images:\n  moving: {{layer: app, from: {{ami: {{owners: [\"{OWN}\"], name: \"{name}*\"}}}}}}\n"
    ));
    let template = || project.kiln(&["template", "moving"]);
    says(&project.kiln(&["lock"]), 0, &[&format!("locked {name}")]);
    says(&template(), 0, &[&id]);
    let lock = std::fs::read_to_string(project.lock_file()).unwrap();
    // As if the id had gone to somebody else since.
    std::fs::write(project.lock_file(), lock.replace(OWN, STRANGER)).unwrap();
    says(&project.bake(), 1, &[&format!("{id} of moving is now owned by {OWN} and was owned by {STRANGER}")]);
    std::fs::write(project.lock_file(), &lock).unwrap();
    deregister(&id);
    let said = project.bake();
    says(&said, 1, &["the locked base", "is gone", "kiln lock moving --update"]);
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    says(&project.kiln(&["outdated"]), 2, &["is gone"]);
    // And then there is none that fits at all: the lock stays as it is.
    says(&project.kiln(&["lock", "--update"]), 1, &["no base found for moving", &name]);
    assert_eq!(std::fs::read_to_string(project.lock_file()).unwrap(), lock);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_parameter_that_leads_to_a_strangers_image_is_refused() {
    let (name, foreign) = (word("ours"), word("theirs"));
    let (ours, theirs) = (import(&name, OWN, &[]), import(&foreign, STRANGER, &[]));
    let path = word("/kiln/e2e");
    let project = Project::new(&format!(
        "images:\n  moving: {{layer: app, from: {{ssm: \"{path}/{{deb_arch}}\", owners: [\"{OWN}\"]}}}}\n"
    ));
    says(&project.kiln(&["template", "moving"]), 1, &[&format!("the parameter {path}/amd64"), "is not there"]);
    put_parameter(&format!("{path}/amd64"), &ours);
    says(&project.kiln(&["lock"]), 0, &[&format!("locked {name}")]);
    put_parameter(&format!("{path}/amd64"), &theirs);
    says(&project.kiln(&["template", "moving"]), 0, &[&ours]);
    let refusal = format!("names {theirs} ({foreign}), which belongs to {STRANGER}");
    says(&project.kiln(&["lock", "--update"]), 1, &[&refusal]);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn each_variant_has_a_base_of_its_own() {
    let name = word("variant");
    let arm = import(&format!("{name}-arm64"), OWN, &["--architecture", "arm64"]);
    let x86 = import(&format!("{name}-amd64"), OWN, &[]);
    let project = Project::new(&format!(
        "images:\n  moving: {{layer: app, arch: [x86_64, arm64], from: {{ami: {{owners: [\"{OWN}\"], name: \
         \"{name}-*\"}}}}}}\n"
    ));
    says(&project.kiln(&["lock"]), 0, &["moving:x86_64: locked", &x86, "moving:arm64: locked", &arm]);
    says(&project.kiln(&["template", "moving:x86_64"]), 0, &[&x86, "t3.small", "moving-0.0-x86_64-"]);
    let deb = fake_arm_package(project.0.path());
    says(
        &project.kiln(&["template", "moving:arm64", "--agent-deb", &deb]),
        0,
        &[&arm, "t4g.small", "moving-0.0-arm64-"],
    );
}

/// There is no package for that processor here, and a template needs none but to know its content.
fn fake_arm_package(folder: &Path) -> String {
    let path = folder.join("kiln-agent_0_arm64.deb");
    std::fs::write(&path, "!<arch>\n").unwrap();
    path.to_str().unwrap().to_owned()
}

fn put_parameter(name: &str, value: &str) {
    let code = format!(
        "import boto3; boto3.client('ssm').put_parameter(Name='{name}', Value='{value}', Type='String', Overwrite=True)"
    );
    let ran = kiln(&["lab", "exec", "--", "python3", "-c", &code]);
    assert!(ran.ok(), "{ran:?}");
}
