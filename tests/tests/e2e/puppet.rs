//! The puppet handler with the real puppet.

use aws_sdk_ec2::types::InstanceStateName;
use kiln_schema::{OutcomeKind, State, Status};
use kiln_tests::{Machine, lab};

/// User-data that converges a manifest.
fn user_data(manifest: &str, more: &str) -> String {
    let indented = manifest.replace('\n', "\n      ");
    format!(
        "#cloud-config\nrole: web\nwrite_files:\n  - path: /etc/kiln/site.pp\n    content: |\n      {indented}\n\
         puppet: {{mode: apply, manifest: /etc/kiln/site.pp, on_error: none{more}}}\n"
    )
}

fn converge(manifest: &str, more: &str) -> (Machine, Status) {
    let machine = lab().launch(&user_data(manifest, more));
    let status = machine.settled();
    (machine, status)
}

fn puppet(status: &Status) -> &kiln_schema::HandlerReport {
    status.handlers.iter().find(|h| h.name == "puppet").unwrap()
}

fn message(status: &Status) -> &str {
    puppet(status).message.as_deref().unwrap_or("")
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_1_changes_and_no_change_are_success_and_the_role_is_a_fact() {
    let (machine, status) = converge("file { '/etc/role': content => $facts['role'] }", "");
    assert_eq!(status.state, State::Done, "{status:?}");
    assert_eq!(puppet(&status).detail.as_ref().unwrap()["changed"], 1, "{status:?}");
    assert_eq!(machine.ask("cat /etc/role /var/lib/kiln/data/puppet"), "webok");
    machine.reboot();
    let status = machine.settled();
    assert_eq!(puppet(&status).outcome, OutcomeKind::Ok, "{status:?}");
    assert_eq!(puppet(&status).detail.as_ref().unwrap()["changed"], 0, "{status:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_failed_resource_fails_the_boot() {
    let (machine, status) = converge("exec { '/bin/false': }", "");
    assert_eq!((status.state, puppet(&status).reason.as_deref()), (State::Failed, Some("command-failed")));
    assert_eq!(puppet(&status).detail.as_ref().unwrap()["failed"], 1, "{status:?}");
    assert_eq!(machine.ask("cat /var/lib/kiln/data/puppet"), "failed");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_syntax_error_is_told_with_its_line() {
    let (_machine, status) = converge("file { '/etc/a': }\nfile { '/etc/b' content => }", "");
    assert_eq!(status.state, State::Failed);
    assert!(message(&status).contains("line: 2") || message(&status).contains("site.pp:2"), "{}", message(&status));
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_missing_puppet_is_named() {
    let lab = lab();
    let machine = lab.launch("#cloud-config\n{}\n");
    machine.settled();
    machine.ask("mv /usr/bin/puppet /usr/bin/puppet.away");
    machine.ask("printf 'puppet: {mode: apply, manifest: /etc/x.pp, on_error: none}\\n' >/etc/kiln/agent.d/p.yaml");
    let ran = machine.shell("kiln-agent boot --stage final");
    assert_eq!(ran.code, 1, "{ran:?}");
    let status = machine.status();
    assert_eq!(puppet(&status).reason.as_deref(), Some("missing-program"), "{status:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_puppet_that_hangs_is_ended() {
    let (machine, status) = converge("exec { '/bin/sleep 3000': timeout => 0 }", ", timeout: 15");
    assert_eq!((status.state, puppet(&status).reason.as_deref()), (State::Failed, Some("timeout")), "{status:?}");
    assert_ne!(machine.shell("pgrep -f '[p]uppet apply'").code, 0);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn run_on_boot_false_skips() {
    let (_machine, status) = converge("exec { '/bin/false': }", ", run_on_boot: false");
    assert_eq!(puppet(&status).outcome, OutcomeKind::Skipped);
    assert_eq!(status.state, State::Done);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn shutdown_on_error_powers_off_after_the_timer_and_said_so_before() {
    let user_data = user_data("exec { '/bin/false': }", ", shutdown_on_error: true, shutdown_timer: 1");
    let machine = lab().launch(&user_data.replace("on_error: none, ", "on_error: shutdown, "));
    let status = machine.settled();
    let plan = status.planned_shutdown.as_ref().unwrap();
    assert_eq!(plan.action, "poweroff");
    assert_eq!(lab().state_of(&machine.id), InstanceStateName::Running);
    machine.becomes(&InstanceStateName::Stopped);
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn on_error_terminate_ends_the_instance_at_the_api() {
    let user_data = user_data("exec { '/bin/false': }", "").replace("on_error: none", "on_error: terminate");
    let machine = lab().launch(&user_data);
    machine.becomes(&InstanceStateName::Terminated);
}
