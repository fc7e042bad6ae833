//! A bake that must not give an image: exit 1, one sentence that names the cause, the report brought
//! home, and nothing left behind.

use kiln_tests::{Baked, bake, lab};

const GOOD_TEST: &str = "@test \"the machine has a root\" {\n  [ -d / ]\n}\n";
const GOOD_MANIFEST: &str = "file { '/etc/app.conf': content => \"on\\n\" }\n";

/// A kiln.yaml with one app, `more` being keys of it.
fn kiln_yaml(app: &str, more: &str) -> String {
    format!(
        "defaults: {{target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 5m}}
images:
  golden: {{layer: golden, from: {{ami: {{owners: [\"136693071363\"], name: \"debian-12-amd64-*\"}}}}}}
  {app}:
    layer: app
    from: golden
    version: \"1\"
    files: [{{source: site.pp, destination: /etc/kiln/puppet/site.pp}}]
{more}
targets:
  lab: {{kind: amazon-ebs, endpoint: lab}}
"
    )
}

const APPLY: &str = "puppet: {mode: apply, manifest: /etc/kiln/puppet/site.pp}";

struct Broken<'a> {
    app: &'a str,
    /// Keys of the app.
    more: String,
    manifest: &'a str,
    test: &'a str,
    /// What the one sentence must say.
    cause: &'a [&'a str],
    /// Files that must have come home.
    home: &'a [&'a str],
}

impl Broken<'_> {
    fn must_fail(&self) -> Baked {
        let files = [("site.pp", self.manifest), ("app.bats", self.test)];
        let baked = bake(self.app, &kiln_yaml(self.app, &self.more), &files);
        assert_eq!(baked.ran.code, 1, "{:?}", baked.ran);
        let said = &baked.ran.stderr;
        for part in self.cause {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
        let last_lines: Vec<&str> = said.lines().filter(|line| line.contains(self.cause[0])).collect();
        assert_eq!(last_lines.len(), 1, "the cause is told once:\n{said}");
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
        for name in self.home {
            let length = std::fs::metadata(baked.report.join(name)).map_or(0, |m| m.len());
            assert!(length > 0, "{name} did not come home: {:?}", std::fs::read_dir(&baked.report).map(|d| d.count()));
        }
        assert_eq!(traces(self.app), Vec::<String>::new());
        baked
    }
}

/// What the API still has of a bake: living instances, images and key pairs.
fn traces(app: &str) -> Vec<String> {
    let lab = lab();
    let mut left = Vec::new();
    let mark = aws_sdk_ec2::types::Filter::builder().name("tag:application").values(app).build();
    let instances = lab.block_on(lab.ec2.describe_instances().filters(mark.clone()).send()).unwrap();
    for instance in instances.reservations().iter().flat_map(|r| r.instances()) {
        let state = instance.state().unwrap().name().unwrap();
        if *state != aws_sdk_ec2::types::InstanceStateName::Terminated {
            left.push(format!("{} is {state}", instance.instance_id().unwrap()));
        }
    }
    let images = lab.block_on(lab.ec2.describe_images().owners("self").filters(mark).send()).unwrap();
    left.extend(images.images().iter().map(|image| image.image_id().unwrap().to_owned()));
    left
}

const ALWAYS_HOME: &[&str] = &["gate.json", "status.json", "journal.txt", "packer.log"];

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_bake_that_passes_gives_an_image_with_its_ancestor_and_its_gate() {
    let more = format!("    tests: [app.bats]\n    user_data: {{{APPLY}}}");
    let baked = bake("good", &kiln_yaml("good", &more), &[("site.pp", GOOD_MANIFEST), ("app.bats", GOOD_TEST)]);
    assert!(baked.ran.ok(), "{:?}", baked.ran);
    let lab = lab();
    let mark = aws_sdk_ec2::types::Filter::builder().name("tag:application").values("good").build();
    let images = lab.block_on(lab.ec2.describe_images().owners("self").filters(mark).send()).unwrap();
    let [image] = images.images() else { panic!("{images:?}") };
    let tag = |key: &str| image.tags().iter().find(|t| t.key() == Some(key)).and_then(|t| t.value()).map(str::to_owned);
    assert_eq!(tag("ancestor"), Some(lab.golden()));
    assert!(tag("gate").unwrap().starts_with("passed 20"), "{:?}", tag("gate"));
    assert_eq!(tag("stage").as_deref(), Some("candidate"));
    for name in ["gate.json", "status.json", "journal.txt", "tests.tap", "last_run_summary.yaml"] {
        assert!(baked.report.join(name).exists(), "{name}");
    }
    lab.block_on(lab.ec2.deregister_image().image_id(image.image_id().unwrap()).send()).unwrap();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn puppet_that_fails_to_converge() {
    Broken {
        app: "puppet-fails",
        more: format!("    tests: [app.bats]\n    user_data: {{{APPLY}}}"),
        manifest: "exec { '/bin/false': }\n",
        test: GOOD_TEST,
        cause: &["puppet", "failed"],
        home: &[ALWAYS_HOME, &["last_run_summary.yaml"]].concat(),
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_14_a_bats_test_that_fails_and_log_tap_and_journal_are_kept() {
    Broken {
        app: "test-fails",
        more: format!("    tests: [app.bats]\n    user_data: {{{APPLY}}}"),
        manifest: GOOD_MANIFEST,
        test: "@test \"works\" {\n  true\n}\n@test \"the moon is cheese\" {\n  false\n}\n",
        cause: &["the moon is cheese"],
        home: &[ALWAYS_HOME, &["tests.tap", "last_run_summary.yaml"]].concat(),
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_bats_file_without_a_test() {
    Broken {
        app: "test-empty",
        more: "    tests: [app.bats]".to_owned(),
        manifest: "",
        test: "# nothing yet\n",
        cause: &["no test"],
        home: ALWAYS_HOME,
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn tests_that_are_all_skipped() {
    Broken {
        app: "test-skipped",
        more: "    tests: [app.bats]".to_owned(),
        manifest: "",
        test: "@test \"one\" {\n  skip \"later\"\n}\n@test \"two\" {\n  skip\n}\n",
        cause: &["skipped"],
        home: &[ALWAYS_HOME, &["tests.tap"]].concat(),
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_agent_that_never_finishes() {
    Broken {
        app: "never-ends",
        more: "    gate_timeout: 10s\n    user_data: {runcmd: [\"sleep 3000\"]}".to_owned(),
        manifest: "",
        test: "",
        cause: &["did not finish within 10s", "runcmd"],
        home: ALWAYS_HOME,
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_typo_in_the_user_data() {
    Broken {
        app: "typo",
        more: "    user_data: {pupet: {mode: apply}}".to_owned(),
        manifest: "",
        test: "",
        cause: &["pupet", "unknown key", "puppet"],
        home: ALWAYS_HOME,
    }
    .must_fail();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_private_key_left_under_root() {
    Broken {
        app: "key-left",
        more: "    user_data: {runcmd: [\"ssh-keygen -q -t ed25519 -N '' -f /root/deploy_key\"]}".to_owned(),
        manifest: "",
        test: "",
        cause: &["/root/deploy_key"],
        home: ALWAYS_HOME,
    }
    .must_fail();
}
