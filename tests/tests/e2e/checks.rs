//! Checks of kiln.yaml and the gate without a bake, on booted machines with a real systemd, bats and curl.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_tests::{Ran, bake, kiln, lab, program, run};

/// An image with a web server, a failed unit where it is wanted, and these checks.
fn kiln_yaml(app: &str, user_data: &str, checks: &str) -> String {
    format!(
        "defaults: {{target: lab, owner: sre, environment: test, ssh_username: admin, gate_timeout: 2m}}
images:
  golden: {{layer: golden, from: {{ami: {{owners: [\"136693071363\"], name: \"debian-12-amd64-*\"}}}}}}
  {app}:
    layer: app
    from: golden
    tests: [app.bats]
    checks:
{checks}
    user_data:
      write_files:
        - {{path: /srv/index.html, content: \"Welcome to the shop\\n\", permissions: 0640, owner: 'root:adm'}}
        - path: /etc/systemd/system/shop.service
          content: |
            [Service]
            ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:8080 -h /srv
            [Install]
            WantedBy=multi-user.target
        - {{path: /etc/systemd/system/broken.service, content: \"[Service]\\nExecStart=/bin/false\\n\"}}
{user_data}
targets:
  lab: {{kind: amazon-ebs, endpoint: lab}}
"
    )
}

/// Half a second later than the gate looks first, so that a check has something to wait for.
const SHOP: &str = "      runcmd:
        - systemctl enable shop
        - systemd-run --on-active=500ms systemctl start shop";

const BY_HAND: &str = "load kiln
@test \"the shop answers\" {
  eventually 30s http_answers http://127.0.0.1:8080/ 200 \"Welcome to the shop\"
  service_enabled shop
  file_owner /srv/index.html root:adm
}
";

/// How many cases a reader of XML finds in the report's JUnit file: all, failures, errors, skipped.
fn junit(report: &Path) -> String {
    let script = "import sys, xml.etree.ElementTree as E; r = E.parse(sys.argv[1]).getroot(); \
                  a = lambda n: len(r.findall('.//' + n)); \
                  assert [r.get(k) for k in ('tests', 'failures', 'errors', 'skipped')] == \
                  [str(a(n)) for n in ('testcase', 'failure', 'error', 'skipped')]; \
                  print(a('testcase'), a('failure'), a('error'), a('skipped'))";
    let ran = run(Command::new("python3").args(["-c", script]).arg(report.join("junit.xml")));
    assert!(ran.ok(), "{ran:?}");
    ran.stdout.trim().to_owned()
}

/// Machines of the lab that a gate of this image has launched.
fn machines(image: &str) -> Vec<String> {
    let lab = lab();
    let ours = aws_sdk_ec2::types::Filter::builder().name("tag:Name").values(format!("kiln gates {image}")).build();
    let alive = aws_sdk_ec2::types::Filter::builder().name("instance-state-name").values("running").build();
    let answer = lab.block_on(lab.ec2.describe_instances().filters(ours).filters(alive).send()).unwrap();
    let instances = answer.reservations().iter().flat_map(|reservation| reservation.instances());
    instances.map(|instance| instance.instance_id().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_image_whose_checks_hold() {
    let checks = "      - {service: shop, within: 30s}
      - {service: broken, active: no, enabled: no}
      - {port: 8080, address: 127.0.0.1, within: 30s}
      - {http: 'http://127.0.0.1:8080/', contains: Welcome, within: 1m}
      - {http: 'http://127.0.0.1:8080/none', status: 404}
      - {package: bats, version: '1.*'}
      - {package: nginx, installed: no}
      - {mount: /proc, type: proc, options: [nosuid]}
      - {file: /srv/index.html, mode: 0640, owner: 'root:adm', content: Welcome to the shop}
      - {file: /srv/none, exists: no}
      - {user: admin, groups: [adm]}
      - {user: pi, exists: no}
      - {sysctl: kernel.ostype, value: Linux}
      - no_failed_units: true";
    let in_image = format!("{SHOP}\n      kiln: {{tests: [/srv/tests]}}");
    let yaml = kiln_yaml("checked", &in_image, checks)
        .replace("tests: [app.bats]", "tests: [app.bats]\n    files: [{source: more, destination: /srv/tests}]");
    let more = "@test \"a test that user-data names\" { true; }\n";
    let baked = bake("checked", &yaml, &[("app.bats", BY_HAND), ("more/more.bats", more)]);
    assert!(baked.ran.ok(), "{:?}", baked.ran);
    let tap = std::fs::read_to_string(baked.report.join("tests.tap")).unwrap();
    for name in ["port 8080/tcp listens on 127.0.0.1", "the shop answers", "a test that user-data names"] {
        assert!(tap.contains(&format!(" {name}\n")), "{tap}");
    }
    // 19 by the checks, one by hand, one named by user-data; and what the gate itself looks at.
    assert_eq!(junit(&baked.report), "23 0 0 1");
    let id = baked.ran.stdout.rsplit("done").next().unwrap().split_whitespace().next().unwrap().to_owned();
    lab().block_on(lab().ec2.deregister_image().image_id(id).send()).unwrap();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn every_check_that_fails_says_what_it_expected_and_found() {
    let checks = "      - {service: shop, enabled: yes, within: 500ms}
      - {service: broken, active: yes}
      - {service: ssh, active: no}
      - {port: 22, protocol: udp}
      - {port: 22, address: 127.0.0.1}
      - {http: 'http://127.0.0.1:8080/', within: 300ms}
      - package: nginx
      - {package: bats, version: '0.*'}
      - mount: /srv
      - {file: /srv/index.html, mode: 0600, owner: admin, contains: Goodbye}
      - file: /srv/none
      - user: pi
      - {user: admin, groups: [shadow]}
      - {sysctl: kernel.ostype, value: Plan9}
      - no_failed_units: true";
    let broken = "      runcmd: [systemctl start broken; sleep 0.2]";
    let baked =
        bake("unchecked", &kiln_yaml("unchecked", broken, checks), &[("app.bats", "@test \"by hand\" { true; }\n")]);
    assert_eq!(baked.ran.code, 1, "{:?}", baked.ran);
    let said = &baked.ran.stderr;
    for line in [
        "shop is enabled: expected shop to be enabled, found disabled",
        "broken is active: expected broken to be active, found it failed (exit-code)",
        "ssh is not active: expected ssh to be inactive, found it active (running)",
        "port 22/udp listens: expected port 22/udp to listen, found nothing that listens there",
        "expected port 22/tcp to listen on 127.0.0.1, found it bound to 0.0.0.0 ::",
        "expected status 200 of http://127.0.0.1:8080/, found no answer: curl: (7) ",
        "expected package nginx to be installed, found that it is not",
        "expected package bats 0.* to be installed, found 1.",
        "expected /srv to be mounted, found nothing mounted there",
        "expected /srv/index.html to have mode 0600, found 0640",
        "expected /srv/index.html to belong to admin, found root:adm",
        "expected /srv/index.html to contain 'Goodbye', found 'Welcome to the shop '",
        "expected /srv/none to exist, found nothing there",
        "expected user pi to exist, found no such user",
        "expected user admin to be in group shadow, found it in ",
        "expected kernel.ostype to be Plan9, found Linux",
        "expected no failed unit, found broken.service",
    ] {
        assert!(said.contains(line), "`{line}` is not in:\n{said}");
    }
    assert!(said.contains("kiln: unchecked: ") && said.contains("17 of 18 tests failed"), "{said}");
    assert_eq!(junit(&baked.report), "21 17 0 1");
}

/// Runs the gate of `shop` in the lab, from its base.
fn gate(folder: &Path, user_data: &str, checks: &str) -> Ran {
    std::fs::write(folder.join("kiln.yaml"), kiln_yaml("shop", user_data, checks)).unwrap();
    std::fs::write(folder.join("app.bats"), BY_HAND).unwrap();
    let (file, report) = (folder.join("kiln.yaml"), folder.join("report"));
    let words = ["gate", "shop", "--local", "--base", "--format", "json", "--report", report.to_str().unwrap()];
    kiln(&[&["-f", file.to_str().unwrap()], &words[..]].concat())
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn the_gate_without_a_bake() {
    let folder = tempfile::tempdir().unwrap();
    let good = "      - {service: shop, within: 30s}";
    let slow = SHOP.replace("runcmd:", "runcmd:\n        - sleep 2");
    let passed = gate(folder.path(), &slow, good);
    assert!(passed.ok() && passed.stdout.contains("\"event\":\"passed\""), "{passed:?}");
    // What it waited for, with the time that was left of the two minutes.
    let waiting = passed.stdout.lines().find(|line| line.contains("\"event\":\"waiting\"")).unwrap();
    let waiting: serde_json::Value = serde_json::from_str(waiting).unwrap();
    assert_eq!(waiting["for"], "the agent: final stage, handler runcmd");
    assert!((100..=120).contains(&waiting["seconds_left"].as_u64().unwrap()), "{waiting}");
    assert_eq!(junit(&folder.path().join("report")), "5 0 0 1");

    let failed = gate(folder.path(), SHOP, "      - {service: ssh, active: no}");
    let cause = "expected ssh to be inactive, found it active (running)";
    assert!(failed.code == 1 && failed.stdout.contains(cause), "{failed:?}");
    assert_eq!(junit(&folder.path().join("report")), "4 1 0 1");
    assert_eq!(machines("shop"), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_gate_that_is_interrupted_removes_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kiln.yaml");
    let yaml = kiln_yaml("stopped", "      runcmd: [sleep 3000]", "      - no_failed_units: true");
    std::fs::write(&file, yaml).unwrap();
    std::fs::write(folder.path().join("app.bats"), BY_HAND).unwrap();
    let mut words = Command::new(program());
    words.args(["-f", file.to_str().unwrap(), "gate", "stopped", "--local", "--base"]);
    let child = words.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while machines("stopped").is_empty() {
        assert!(Instant::now() < end, "no machine came");
        std::thread::sleep(Duration::from_millis(100));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(ran.code == 1 && ran.stderr.contains("stopped: interrupted by SIGINT"), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    assert_eq!(machines("stopped"), Vec::<String>::new());
}
