//! The seal and the proof: what must not be in an image is named, two instances of one must share
//! nothing, and what an image lacks is seen on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::Filter;
use kiln_tests::{Ran, kiln, lab, program};
use serde_json::Value;

/// Bakes several images at once in a folder of their own, on the golden image.
struct Bakes {
    folder: tempfile::TempDir,
    ran: Ran,
}

impl Bakes {
    /// `images` has keys of each image, by name.
    fn of(images: &[(&str, &str)], files: &[(&str, &str)]) -> Bakes {
        let folder = tempfile::tempdir().unwrap();
        let mut text =
            "defaults: {target: lab, owner: sre, environment: test, ssh_username: admin}\nimages:\n  golden: \
                        {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-amd64-*\"}}}\n"
                .to_owned();
        for (name, keys) in images {
            text.push_str(&format!("  {name}:\n    layer: app\n    from: golden\n{keys}\n"));
        }
        text.push_str("targets:\n  lab: {kind: amazon-ebs, endpoint: lab}\n");
        for (name, text) in files.iter().chain([&("kiln.yaml", text.as_str())]) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let names = images.iter().map(|(name, _)| *name);
        let ran = Command::new(program())
            .args(["bake", "--rebuild"])
            .args(names)
            .current_dir(folder.path())
            .output()
            .unwrap()
            .into();
        Bakes { folder, ran }
    }

    fn file(&self, image: &str, name: &str) -> PathBuf {
        let reports = std::fs::read_dir(self.folder.path().join("kiln-reports")).unwrap();
        let start = format!("{image}-20");
        let found = reports.map(|entry| entry.unwrap().path());
        let is_its = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&start);
        found.into_iter().find(is_its).unwrap_or_else(|| panic!("no report of {image}: {:?}", self.ran)).join(name)
    }

    fn json(&self, image: &str, name: &str) -> Value {
        let path = self.file(image, name);
        serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
    }
}

/// The images of these names that there are, as `kiln images` lists them.
fn listed(folder: &Path, names: &[&str]) -> Vec<Value> {
    let file = folder.join("kiln.yaml");
    let ran = kiln(&["-f", file.to_str().unwrap(), "images", "--format", "json"]);
    assert!(ran.ok(), "{ran:?}");
    let images = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    images.filter(|image| names.iter().any(|name| image["name"].as_str().unwrap().starts_with(name))).collect()
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn secrets_that_the_bake_planted_are_all_named_and_there_is_no_image() {
    let plant = "    user_data:
      write_files:
        - {path: /etc/app.conf, content: \"key=AKIAABCDEFGHIJKLMNOP\"}
        - {path: /srv/app/env, content: \"TOKEN=ghp_a1B2c3D4a1B2c3D4a1B2c3D4a1B2c3D4a1B2\"}
        - {path: /root/.ssh/authorized_keys.old, content: \"ssh-ed25519 AAAA baker\"}
        - {path: /root/.bash_history, content: \"mysql -psecret\"}
        - {path: /root/.aws/credentials, content: \"[default]\"}";
    let bakes = Bakes::of(&[("planted", plant)], &[]);
    assert_eq!(bakes.ran.code, 1, "{:?}", bakes.ran);
    let said = &bakes.ran.stderr;
    assert!(said.contains("planted: the image is not sealed: 3 found that must not be in it"), "{said}");
    for place in ["/etc/app.conf: ", "/srv/app/env: ", "/root/.ssh/authorized_keys.old: "] {
        assert!(said.contains(place), "{place} is not named:\n{said}");
    }
    // What the checklist knows is gone before anybody looks.
    assert!(!said.contains("history") && !said.contains(".aws"), "{said}");
    let report = bakes.json("planted", "report.json");
    assert_eq!((&report["outcome"], &report["gate"]["verdict"]), (&"failed".into(), &"passed".into()));
    assert_eq!(report["seal"]["findings"].as_array().unwrap().len(), 3);
    assert!(!report.to_string().contains("AKIAABCD") && !said.contains("AKIAABCD"), "a secret is told");
    assert!(listed(bakes.folder.path(), &["planted"]).is_empty());
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn what_an_image_lacks_is_seen_on_it_and_the_report_tells_all_of_the_bake() {
    let skips = "    version: \"3\"\n    seal:\n      skip: {shell-history: \"the trainers' commands\"}\n      permit: \
                 {/etc/app/*.conf: \"a key of the museum\"}\n    user_data:\n      write_files:\n        \
                 - {path: /root/.bash_history, content: \"ls\"}\n        \
                 - {path: /etc/app/a.conf, content: \"AKIAABCDEFGHIJKLMNOP\"}";
    let bakes = Bakes::of(&[("skips", skips), ("unproved", "    prove: false")], &[]);
    assert!(bakes.ran.ok(), "{:?}", bakes.ran);
    let images = listed(bakes.folder.path(), &["skips-", "unproved-"]);
    let of = |name: &str| images.iter().find(|image| image["name"].as_str().unwrap().starts_with(name)).unwrap();
    assert_eq!(
        of("skips")["seal_skipped"],
        "shell-history: the trainers' commands; /etc/app/*.conf: a key of the museum"
    );
    assert!(of("skips")["proof"].as_str().unwrap().starts_with("passed 20"));
    assert_eq!((&of("unproved")["proof"], &of("unproved")["seal_skipped"]), (&"off".into(), &Value::Null));
    let table = kiln(&["-f", bakes.folder.path().join("kiln.yaml").to_str().unwrap(), "images"]);
    assert!(table.stdout.contains("shell-history: the trainers' commands"), "{}", table.stdout);

    let report = bakes.json("skips", "report.json");
    assert_eq!((&report["outcome"], &report["image"]["id"]), (&"passed".into(), &of("skips")["id"]));
    assert_eq!(report["seal"]["skipped"][0]["id"], "shell-history");
    assert!(report["seal"]["freed"].as_str().unwrap().starts_with("nothing: "), "{}", report["seal"]["freed"]);
    let phases: Vec<_> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(
        phases,
        ["resolve", "launch", "connect", "install", "gate", "seal", "create image", "tag", "prove"],
        "no scripts, so no phase of them"
    );
    let proof = bakes.json("skips", "proof.json");
    let machine_id = |number: usize| proof["instances"][number]["identity"]["/etc/machine-id"].as_str().unwrap();
    assert_ne!(machine_id(0), machine_id(1));
    assert_eq!(report["proof"], proof);
    assert!(!bakes.file("unproved", "proof.json").exists());

    let sbom = bakes.json("skips", "sbom.cdx.json");
    let components = sbom["components"].as_array().unwrap();
    let purl = components.iter().filter_map(|component| component["purl"].as_str());
    assert!(components.len() > 100, "{}", components.len());
    assert!(
        purl.into_iter()
            .any(|purl| purl.starts_with("pkg:deb/debian/kiln-agent@") && purl.contains("distro=debian-12"))
    );
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_image_that_brings_an_identity_is_refused() {
    let keeps_id = "    seal: {skip: {machine-id: \"it was asked for\"}}";
    // The agent makes host keys anew unless it is told to keep them.
    let keeps_key = "    seal: {skip: {ssh-host-keys: \"it was asked for\"}}\n    \
                     files: [{source: keep.yaml, destination: /etc/kiln/agent.d/60-keep.yaml}]";
    let files = [("keep.yaml", "ssh_deletekeys: false\n")];
    let bakes = Bakes::of(&[("same-id", keeps_id), ("same-key", keeps_key)], &files);
    assert_eq!(bakes.ran.code, 1, "{:?}", bakes.ran);
    let said = &bakes.ran.stderr;
    assert!(said.contains("same-id: two instances of the new image have the same /etc/machine-id: "), "{said}");
    assert!(said.contains("same-key: two instances of the new image have the same /etc/ssh/ssh_host_"), "{said}");
    assert!(bakes.json("same-id", "proof.json")["cause"].as_str().unwrap().contains("/etc/machine-id"));
    assert!(listed(bakes.folder.path(), &["same-"]).is_empty(), "what is refused is not kept");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_bake_that_is_killed_in_its_proof_leaves_no_instance_and_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let text = "defaults: {target: lab, owner: sre, environment: test, ssh_username: admin}
images:
  golden: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-amd64-*\"}}}
  shot: {layer: app, from: golden}
  baseless: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"plan9-*\"}}}
targets:
  lab: {kind: amazon-ebs, endpoint: lab}
";
    std::fs::write(folder.path().join("kiln.yaml"), text).unwrap();
    // A journal of its own: the bakes of other cases would settle what this one leaves.
    let bake = |image: &str| {
        let mut command = Command::new(program());
        command.args(["bake", image]).current_dir(folder.path()).env("KILN_STATE_DIR", folder.path().join("state"));
        command
    };
    let alive = || {
        let lab = lab();
        let states = Filter::builder().name("instance-state-name").set_values(Some(vec!["running".into()])).build();
        let mark = Filter::builder().name("tag:Name").values("kiln bakes shot-proof-*").build();
        let found = lab.block_on(lab.ec2.describe_instances().filters(states).filters(mark).send()).unwrap();
        found.reservations().iter().flat_map(|reservation| reservation.instances()).count()
    };
    let mut baking = bake("shot").stdout(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while alive() < 2 {
        assert!(Instant::now() < end && baking.try_wait().unwrap().is_none(), "the proof did not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
    baking.kill().unwrap();
    baking.wait().unwrap();
    assert!(!listed(folder.path(), &["shot-"]).is_empty(), "there was an image when it was killed");

    let settled: Ran = bake("baseless").output().unwrap().into();
    assert!(settled.stdout.contains("a bake of shot did not come to its end"), "{settled:?}");
    assert!(settled.stdout.contains("nothing vouches for image"), "{settled:?}");
    assert_eq!(alive(), 0, "{settled:?}");
    assert!(listed(folder.path(), &["shot-"]).is_empty(), "{settled:?}");
    let lab = lab();
    let keys = lab.block_on(lab.ec2.describe_key_pairs().send()).unwrap();
    let keys = keys.key_pairs().iter().filter_map(|key| key.key_name()).filter(|name| name.starts_with("kiln-shot-"));
    assert_eq!(keys.count(), 0);
}
