//! A whole boot against the metadata service of each cloud: the real program, a tree with the cloud's
//! firmware, and a service on this machine that answers as the provider's documentation says.

#![allow(clippy::disallowed_methods, reason = "the test prepares a tree and runs the real program on it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

/// A target and what is there.
type Values = &'static [(&'static str, &'static str)];

/// A service; its address.
fn serve(header: Option<&'static str>, values: Values) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(&stream.unwrap(), header, values));
        }
    });
    address
}

fn answer(stream: &TcpStream, header: Option<&str>, values: Values) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let target = first.split_whitespace().nth(1).unwrap_or_default();
        let is_allowed = header.is_none_or(|header| head.iter().any(|line| line.eq_ignore_ascii_case(header)));
        let found = values.iter().find(|(path, _)| *path == target).filter(|_| is_allowed);
        let (status, body) = found.map_or((404, ""), |(_, body)| (200, *body));
        let mut stream = stream;
        let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    }
}

/// Boots a tree with these files; the status, and all that the program said.
fn boot(root: &Path, files: &[(&str, &str)], endpoint: &str) -> (Json, String) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
    command.arg("--root").arg(root).arg("boot").env_clear().env("KILN_METADATA_ENDPOINT", endpoint);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let status = fs::read(root.join("run/kiln/status.json")).unwrap();
    (serde_json::from_slice(&status).unwrap(), String::from_utf8(said).unwrap())
}

/// Every file below a folder that holds this text.
fn holding(folder: &Path, text: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        let mut bytes = Vec::new();
        if kind.is_dir() {
            holding(&path, text, found);
        } else if kind.is_file() && fs::File::open(&path).unwrap().read_to_end(&mut bytes).is_ok() {
            let holds = bytes.windows(text.len()).any(|part| part == text.as_bytes());
            found.extend(holds.then(|| path.file_name().unwrap().to_string_lossy().into_owned()));
        }
    }
}

const USER_DATA: &str = "## template: jinja\n#cloud-config\nwrite_files: [{path: /told, content: '{{ v1.cloud_name }} \
    {{ v1.instance_id }} {{ v1.local_hostname }} {{ v1.region | default(\"-\") }} {{ v1.availability_zone }}'}]\n";

/// A service's answers with the user-data as a JSON string in place of `USER_DATA`.
fn values(answers: &[(&'static str, &str)]) -> Values {
    let with = |text: &str| text.replace("USER_DATA", &serde_json::to_string(USER_DATA).unwrap());
    let all: Vec<_> = answers.iter().map(|(path, text)| (*path, &*with(text).leak())).collect();
    all.leak()
}

#[test]
fn an_instance_of_each_cloud_is_set_up() {
    for (firmware, header, answers, told) in [
        (
            ("sys/class/dmi/id/product_name", "Google Compute Engine\n"),
            Some("metadata-flavor: google"),
            values(&[(
                "/computeMetadata/v1/instance/?recursive=true",
                r#"{"id": 7, "hostname": "web.internal", "zone": "projects/1/zones/us-east1-b", "attributes": {"user-data": USER_DATA}}"#,
            )]),
            "gce 7 web us-east1 us-east1-b",
        ),
        (
            ("sys/class/dmi/id/product_name", "OpenStack Nova\n"),
            None,
            values(&[
                (
                    "/openstack/latest/meta_data.json",
                    r#"{"uuid": "u-1", "hostname": "web.novalocal", "availability_zone": "nova"}"#,
                ),
                ("/openstack/latest/user_data", USER_DATA),
            ]),
            "openstack u-1 web - nova",
        ),
        (
            ("sys/class/dmi/id/sys_vendor", "DigitalOcean\n"),
            None,
            values(&[(
                "/metadata/v1.json",
                r#"{"droplet_id": 7, "hostname": "web", "region": "nyc3", "user_data": USER_DATA}"#,
            )]),
            "digitalocean 7 web nyc3 nyc3",
        ),
    ] {
        let tree = tempfile::tempdir().unwrap();
        let (status, said) = boot(tree.path(), &[firmware], &serve(header, answers));
        assert_eq!(status["state"], "done", "{said}");
        assert_eq!(fs::read_to_string(tree.path().join("told")).unwrap_or(said), told);
    }
}

#[test]
fn the_password_that_azure_orders_is_shown_nowhere() {
    let order = "<E><LinuxProvisioningConfigurationSet><HostName>web</HostName><UserName>operator</UserName>\
        <UserPassword>hunter2</UserPassword><DisableSshPasswordAuthentication>false</DisableSshPasswordAuthentication>\
        </LinuxProvisioningConfigurationSet></E>";
    let answers = values(&[(
        "/metadata/instance?api-version=2021-08-01&extended=true",
        r#"{"compute": {"vmId": "v-1", "location": "westeurope"}}"#,
    )]);
    let tree = tempfile::tempdir().unwrap();
    let files = [
        ("sys/class/dmi/id/chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n"),
        ("var/lib/cloud/seed/azure/ovf-env.xml", order),
        ("etc/ssh/sshd_config", ""),
    ];
    let (status, said) = boot(tree.path(), &files, &serve(Some("metadata: true"), answers));
    assert_eq!((&status["source"], &status["instance_id"]), (&"azure".into(), &"v-1".into()), "{said}");
    let handlers = status["handlers"].as_array().unwrap();
    let outcome = |name: &str| handlers.iter().find(|handler| handler["name"] == name).unwrap().clone();
    // This tree has no programs that make users: the failure must name the user, and not the password.
    assert!(outcome("users")["message"].as_str().unwrap().contains("`operator`"), "{status}");
    assert_eq!(outcome("azure_ready")["reason"], "nothing-to-do");
    assert!(!said.contains("hunter2") && said.contains("operator"), "{said}");
    let mut holding_it = Vec::new();
    holding(tree.path(), "hunter2", &mut holding_it);
    holding_it.sort();
    assert_eq!(holding_it, ["instance.json", "ovf-env.xml"]);
    let mode = fs::metadata(tree.path().join("run/kiln/instance.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
