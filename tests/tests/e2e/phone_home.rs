//! phone_home against a real server.

use std::time::Instant;

use kiln_schema::{OutcomeKind, State, Status};
use kiln_tests::{Answer, Server, lab};

fn ok() -> Answer {
    Answer::Status(200, String::new())
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn the_form_has_the_fields_that_cloud_init_sends() {
    let server = Server::start(|_, _| ok());
    let user_data =
        format!("#cloud-config\nhostname: caller\nphone_home: {{url: {}/$INSTANCE_ID, tries: 2}}\n", server.url);
    let machine = lab().launch(&user_data);
    let request = server.wait_for(1).remove(0);
    assert_eq!(request.line, format!("POST /{}", machine.id));
    let fields: Vec<String> = request.text().split('&').map(|f| f.split('=').next().unwrap().to_owned()).collect();
    assert_eq!(fields, ["pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn"]);
    assert!(request.text().contains("hostname=caller"), "{}", request.text());
    assert!(request.text().contains("pub_key_ed25519=ssh-ed25519"), "{}", request.text());
    assert_eq!(machine.settled().state, State::Done);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn the_json_tells_a_failure_too() {
    let server = Server::start(|_, _| ok());
    let url = &server.url;
    let machine =
        lab().launch(&format!("#cloud-config\nruncmd: [\"false\"]\nphone_home: {{url: {url}, format: json}}\n"));
    let status: Status = serde_json::from_slice(&server.wait_for(1)[0].body).unwrap();
    assert_eq!((status.state, status.instance_id.as_deref()), (State::Failed, Some(machine.id.as_str())));
    assert!(status.handlers.iter().any(|h| h.name == "runcmd" && h.outcome == OutcomeKind::Failed));
    assert_eq!(machine.settled().state, State::Failed);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn errors_of_the_server_and_then_success() {
    let server = Server::start(|number, _| if number < 2 { Answer::Status(500, "no".to_owned()) } else { ok() });
    let machine = lab().launch(&format!("#cloud-config\nphone_home: {{url: {}, format: json}}\n", server.url));
    assert_eq!(machine.settled().state, State::Done);
    assert_eq!(server.requests().len(), 3);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_server_that_never_answers_degrades_the_boot_within_its_bound() {
    let server = Server::start(|_, _| Answer::Silence);
    let begun = Instant::now();
    let machine = lab().launch(&format!("#cloud-config\nphone_home: {{url: {}, tries: 2, timeout: 3}}\n", server.url));
    let status = machine.settled();
    assert_eq!(status.state, State::Degraded, "{status:?}");
    assert_eq!(machine.shell("kiln-agent status").code, 2);
    let report = status.handlers.iter().find(|h| h.name == "phone_home").unwrap();
    assert_eq!(report.outcome, OutcomeKind::Failed);
    assert!(report.duration_ms < 20_000 && begun.elapsed().as_secs() < 120, "{report:?}");
}
