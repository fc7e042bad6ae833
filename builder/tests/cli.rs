//! What the real program answers to bad input: one sentence that says what to do, and the right exit code.
#![allow(clippy::disallowed_methods, reason = "a test starts the program and prepares its folder")]
#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing loudly")]

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

const GOOD: &str = "\
images:
  golden: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-*\"}}}
  myapp: {layer: app, from: golden}
targets:
  lab: {kind: amazon-ebs, endpoint: lab}
  nowhere: {kind: amazon-ebs, endpoint: \"http://127.0.0.1:9\", region: eu-west-1}
  aws: {kind: amazon-ebs}
";

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if !text.is_empty() {
        std::fs::write(folder.path().join("kiln.yaml"), text).unwrap();
    }
    folder
}

fn kiln(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(KILN);
    command.args(arguments).current_dir(folder).env_clear();
    command.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent"), ("AWS_EC2_METADATA_DISABLED", "true")]);
    command.envs([
        ("KILN_LAB", "no-such-lab"),
        ("KILN_STATE_DIR", ".state"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ]);
    command
}

fn said(output: &Output) -> String {
    format!(
        "exit {}\n{}{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn bad_input_gets_a_sentence_and_its_exit_code() {
    let unknown = "images:\n  golden: {layer: golden, from: x, provison: [a.sh]}\n";
    let cycle = "images:\n  golden: {layer: golden, from: jetty}\n  jetty: {layer: base, from: golden}\n";
    let unsealed = "images:\n  golden:\n    layer: golden\n    from: {ami: {owners: [self], name: x}}\n    \
                    seal: {skip: {ssh-hostkeys: \"a museum\", mail: \"\"}}\n";
    let variants = &GOOD.replace("layer: golden,", "layer: golden, arch: [x86_64, arm64],");
    let s3 = "s3: {kind: amazon-instance, region: eu-west-1, account_id: \"123456789012\", s3_bucket: b, \
              x509_cert_path: kiln.yaml, x509_key_path: kiln.yaml, iam_instance_profile: p}";
    let stores = &format!("{GOOD}  {s3}\n");
    let cases: &[(&str, &str)] = &[
        ("", "bake golden"),
        ("", "images"),
        ("", "-f other/kiln.yaml latest golden"),
        (unknown, "bake golden"),
        (cycle, "template golden"),
        (unsealed, "bake golden"),
        (GOOD, "bake goldn --target lab"),
        (GOOD, "latest zebra"),
        (GOOD, "bake golden"),
        (GOOD, "images --target lba"),
        (GOOD, "bake golden --target aws"),
        (GOOD, "bake golden --target aws --format json"),
        (GOOD, "images --target lab"),
        (GOOD, "images --target aws"),
        (GOOD, "bake"),
        (GOOD, "bake golden --format xml"),
        (variants, "template golden --target lab"),
        (variants, "latest golden:arm --target lab"),
        (variants, "bake golden --target lab --report r"),
        (stores, "bake golden --target s3"),
        (stores, "lock golden --target s3"),
        (GOOD, "lock myapp"),
        (GOOD, "lock goldn --update"),
        (GOOD, "lock golden --target lab"),
        (GOOD, "outdated --target lab"),
        (GOOD, "outdated --target aws --format json"),
        ("images:\n  a: {layer: app, from: b, checks: [{port: 80, mode: 0644}, {prot: 1}]}\n", "bake a"),
        (GOOD, "gate golden"),
        (GOOD, "gate goldn --local"),
        (GOOD, "gate golden --local"),
        (GOOD, "gate golden --local --base --ami ami-1"),
        (GOOD, "bake golden --timeout 2"),
        (GOOD, "bake golden --timeout 0s"),
        (GOOD, "bale golden"),
        (GOOD, "pipeline"),
        (GOOD, "pipeline run"),
        (GOOD, "pipeline run goldn --target lab"),
        (GOOD, "pipeline run --all golden"),
        (GOOD, "pipeline run golden --promote production"),
        (GOOD, "pipeline run --all --promote canary --target aws"),
        (unknown, "pipeline run --all"),
        (GOOD, "graph --format json"),
        (GOOD, "copy goldn --target nowhere"),
        (GOOD, "copy golden --target nowhere"),
        (GOOD, "promote golden --to staging"),
        (GOOD, "promote golden --to production --force"),
        (GOOD, "promote goldn --to canary --target nowhere"),
        (GOOD, "rollback goldn --target nowhere"),
        (GOOD, "images --stage staging"),
        (GOOD, "latest golden --region eu-west-1"),
        (GOOD, "latest golden --region eu-west-9 --stage canary --target nowhere"),
        (GOOD, "canary start golden"),
        (GOOD, "canary start golden --asg web --launch-template web"),
        (GOOD, "canary watch golden --asg web --for 10"),
        (GOOD, "canary watch golden --asg web --listen here"),
        (GOOD, "canary watch golden --asg web --key-file key"),
        (GOOD, "canary watch golden --asg web --listen 127.0.0.1:0 --key-file key --target nowhere"),
    ];
    let mut text = String::new();
    for (file, arguments) in cases {
        let folder = folder(file);
        let words: Vec<_> = arguments.split(' ').collect();
        let output = kiln(folder.path(), &words).output().unwrap();
        writeln!(text, "$ kiln {arguments}\n{}", said(&output)).unwrap();
    }
    // The one value that is different each time.
    let time = text.find("\"elapsed_ms\":").unwrap() + "\"elapsed_ms\":".len();
    let digits = text[time..].chars().take_while(char::is_ascii_digit).count();
    text.replace_range(time..time + digits, "0");
    insta::assert_snapshot!(text);
}

#[test]
fn without_packer_the_sentence_says_how_to_install_it() {
    let folder = folder(GOOD);
    let output = kiln(folder.path(), &["bake", "golden", "--target", "nowhere"]).env("PATH", "/nonexistent").output();
    assert_eq!(
        said(&output.unwrap()),
        "exit 1\nkiln: packer is not on the path: install it with `apt-get install packer` or from \
         https://developer.hashicorp.com/packer/install\n"
    );
}

/// A stand-in that says of itself what packer 1.16 does, and has its plugin in one folder alone.
const CURRENT: &str = "#!/bin/sh
case \"$*\" in
    '-machine-readable version') echo 1785500000,,version,1.16.0 ;;
    'plugins installed') [ \"$PACKER_PLUGIN_PATH\" != \"$PLUGINS\" ] ||
        echo \"$PLUGINS/github.com/hashicorp/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_amd64\" ;;
esac
";

#[test]
fn pain_9_a_packer_without_its_plugin_is_answered_with_the_exact_command_and_where_it_is_to_go() {
    let with_path = GOOD.replace("nowhere: {", "nowhere: {packer: {plugin_path: plugins}, ");
    for (file, place, variable) in
        [(GOOD, "", ""), (&with_path, " in FOLDER/other", "PACKER_PLUGIN_PATH=FOLDER/other ")]
    {
        let folder = folder(&file.replace("plugin_path: plugins", "plugin_path: other"));
        let path = folder.path().canonicalize().unwrap().display().to_string();
        let packer = folder.path().join("packer");
        std::fs::write(&packer, CURRENT).unwrap();
        std::fs::set_permissions(&packer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let ask = |file: &str| {
            std::fs::write(folder.path().join("kiln.yaml"), file).unwrap();
            let mut command = kiln(folder.path(), &["bake", "golden", "--target", "nowhere"]);
            let output = command.env("PATH", format!("{path}:/usr/bin:/bin")).env("PLUGINS", format!("{path}/plugins"));
            said(&output.output().unwrap())
        };
        let command = format!("{variable}packer plugins install github.com/hashicorp/amazon").replace("FOLDER", &path);
        assert_eq!(
            ask(&file.replace("plugin_path: plugins", "plugin_path: other")),
            format!("exit 1\nkiln: packer 1.16.0 has no plugin for EC2{place}: run `{command}` once\n")
                .replace("FOLDER", &path)
        );
        // With its plugin where kiln.yaml says, packer is no obstacle: the next thing is the API.
        let next = ask(&with_path);
        assert!(next.contains("DescribeImages failed"), "{next}");
    }
}

#[test]
fn an_api_that_does_not_answer_is_named() {
    let folder = folder(GOOD);
    let output = kiln(folder.path(), &["images", "--target", "nowhere"]).output().unwrap();
    let said = said(&output);
    assert!(said.starts_with("exit 1\nkiln: DescribeImages failed at http://127.0.0.1:9: "), "{said}");
    assert_eq!(said.lines().count(), 2, "one sentence: {said}");
}

/// Answers every request as DescribeImages does when nothing fits.
fn empty_account() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let body = "<DescribeImagesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                        <requestId>1</requestId><imagesSet/></DescribeImagesResponse>";
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\nconnection: close\r\ncontent-length:";
            let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    });
    address
}

#[test]
fn an_account_without_images_says_what_to_do() {
    let folder = folder(&GOOD.replace("http://127.0.0.1:9", &empty_account()));
    let mut text = String::new();
    let commands = [
        "latest golden",
        "images",
        "images --format json",
        "template golden",
        "bake myapp",
        "lock",
        "outdated",
        "outdated --format json",
    ];
    for arguments in commands {
        let words: Vec<_> = arguments.split(' ').chain(["--target", "nowhere"]).collect();
        let output = kiln(folder.path(), &words).output().unwrap();
        writeln!(text, "$ kiln {arguments}\n{}", said(&output)).unwrap();
    }
    // A machine without packer says that first; the test above is about it.
    if !text.contains("packer is not on the path") {
        insta::assert_snapshot!(text);
    }
    assert!(!folder.path().join("kiln-reports").exists(), "nothing was baked, so there is no report");
}

#[test]
fn a_lock_file_that_cannot_be_read_is_told_at_its_place_and_left_as_it_is() {
    let folder = folder(GOOD);
    let conflict = "version: 1\nbases:\n<<<<<<< HEAD\n  \"golden\": {}\n";
    std::fs::write(folder.path().join("kiln.lock"), conflict).unwrap();
    for arguments in ["lock --update --target nowhere", "outdated --target nowhere", "bake golden --target nowhere"] {
        let words: Vec<_> = arguments.split(' ').collect();
        let said = said(&kiln(folder.path(), &words).output().unwrap());
        assert!(said.starts_with("exit 1\nkiln: kiln.lock:4:11: error: "), "{said}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("kiln.lock")).unwrap(), conflict);
}

#[test]
fn the_lab_needs_root_and_says_so() {
    let folder = folder(GOOD);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let copy = folder.path().join("kiln");
    std::fs::copy(KILN, &copy).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let mut command = if root { Command::new("setpriv") } else { Command::new(&copy) };
    if root {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    }
    let output = command.args(["bake", "golden", "--target", "lab"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(
        said(&output),
        "exit 1\nkiln: baking in the lab needs root, because packer must enter the lab's network: run kiln with sudo\n"
    );
}
