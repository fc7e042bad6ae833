//! The agent on a machine with a real systemd.

use kiln_schema::{OutcomeKind, State, Status};
use kiln_tests::{kiln, lab};

fn outcome(status: &Status, handler: &str) -> Option<(OutcomeKind, Option<String>)> {
    status.handlers.iter().find(|h| h.name == handler).map(|h| (h.outcome, h.reason.clone()))
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_7_sshd_is_up_with_user_data_that_is_broken_yaml() {
    let machine = lab().launch("#cloud-config\nhostname: web\nruncmd:\n  - [touch, /x\nwrite_files: {\n");
    let status = machine.settled();
    assert_eq!(status.state, State::Failed);
    let finding = status.diagnostics.iter().find(|d| d.source.starts_with("user-data")).unwrap();
    assert!(finding.line.is_some() && finding.column.is_some(), "{finding:?}");
    machine.until("systemctl is-active ssh");
    let key = machine.ask("ssh-keyscan -T 10 -t ed25519 127.0.0.1 2>/dev/null");
    assert!(key.contains("ssh-ed25519"), "{key}");
    let told = machine.shell("kiln-agent status");
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains(&format!("{}:{}", finding.line.unwrap(), finding.column.unwrap())), "{told:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_reboot_keeps_telling_a_failure_and_a_new_instance_runs_everything_again() {
    let lab = lab();
    let user_data = "#cloud-config\nruncmd:\n  - echo ran >>/var/tmp/ran\n  - exit_code_of_this_is_127\n  - true\n";
    let machine = lab.launch(user_data);
    let status = machine.settled();
    assert_eq!(outcome(&status, "runcmd"), Some((OutcomeKind::Failed, Some("command-failed".to_owned()))));
    assert_eq!(machine.ask("cat /var/lib/kiln/data/runcmd"), "failed");
    let host_key = machine.ask("cat /etc/ssh/ssh_host_ed25519_key.pub");

    machine.reboot();
    let status = machine.settled();
    assert_eq!(status.state, State::Failed, "{status:?}");
    let runcmd = status.handlers.iter().find(|h| h.name == "runcmd").unwrap();
    assert!(runcmd.message.as_deref().unwrap().contains("at an earlier boot"), "{runcmd:?}");
    assert_eq!(machine.ask("wc -l </var/tmp/ran"), "1");
    assert_eq!(machine.ask("cat /etc/ssh/ssh_host_ed25519_key.pub"), host_key);

    // The disk of this instance, under another instance id.
    let image = lab
        .block_on(lab.ec2.create_image().instance_id(&machine.id).name(format!("again-{}", machine.id)).send())
        .unwrap();
    let image = image.image_id().unwrap();
    lab.becomes_available(image);
    let next = lab.launch_image(image, user_data);
    next.settled();
    assert_eq!(next.ask("wc -l </var/tmp/ran"), "2");
    assert_ne!(next.ask("cat /etc/ssh/ssh_host_ed25519_key.pub"), host_key);
    lab.block_on(lab.ec2.deregister_image().image_id(image).send()).unwrap();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_agent_that_is_killed_in_a_handler_is_told_and_the_handler_runs_again() {
    let once = "test -e /var/tmp/begun || { touch /var/tmp/begun; sleep 3000; }";
    let machine = lab().launch(&format!("#cloud-config\nruncmd:\n  - {once}\n"));
    machine.until("test -e /var/tmp/begun");
    machine.ask("systemctl kill --kill-whom=main --signal=KILL kiln-final; pkill -9 sleep; true");
    machine.until("! systemctl is-active kiln-final");
    let told = machine.shell("kiln-agent status");
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("stopped in the final stage"), "{told:?}");

    machine.reboot();
    let status = machine.settled();
    let runcmd = status.handlers.iter().find(|h| h.name == "runcmd").unwrap();
    assert_eq!(runcmd.outcome, OutcomeKind::Ok, "{runcmd:?}");
    assert!(runcmd.message.as_deref().unwrap().contains("interrupted"), "{runcmd:?}");
    assert_eq!(status.state, State::Done, "{status:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_15_systemctl_start_in_runcmd_does_not_hang() {
    let unit = "[Unit]\\nAfter=multi-user.target\\n[Service]\\nExecStart=/bin/sleep 1000\\n";
    let machine = lab().launch(&format!(
        "#cloud-config\nwrite_files:\n  - {{path: /etc/systemd/system/later.service, content: \"{unit}\"}}\n\
         runcmd:\n  - systemctl daemon-reload\n  - [systemctl, start, later]\n  - systemctl is-active later\n"
    ));
    let status = machine.settled();
    assert_eq!(status.state, State::Done, "{status:?}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn keys_from_the_metadata_let_the_default_user_in() {
    let lab = lab();
    let name = "e2e-login";
    let _ = lab.block_on(lab.ec2.delete_key_pair().key_name(name).send());
    let made = lab.block_on(lab.ec2.create_key_pair().key_name(name).send()).unwrap();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), made.key_material().unwrap()).unwrap();
    let request = lab.ec2.run_instances().image_id(lab.golden()).min_count(1).max_count(1).key_name(name);
    let answer = lab.block_on(request.send()).unwrap();
    let instance = &answer.instances()[0];
    let machine = kiln_tests::Machine { id: instance.instance_id().unwrap().to_owned() };
    assert_eq!(machine.settled().state, State::Done);
    let login = format!("admin@{}", instance.private_ip_address().unwrap());
    let ran = kiln(&[
        "lab",
        "exec",
        "--",
        "ssh",
        "-i",
        key.path().to_str().unwrap(),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        // sshd lets go of its port for a moment when it takes up the RSA key.
        "-o",
        "ConnectionAttempts=20",
        &login,
        "sudo",
        "id",
        "-u",
    ]);
    assert_eq!(ran.stdout.trim(), "0", "{ran:?}\n{}", machine.console());
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_full_disk_is_told_and_the_machine_stays_reachable() {
    let machine = lab().launch("#cloud-config\nruncmd: [true]\n");
    assert_eq!(machine.settled().state, State::Done);
    machine.ask(
        "mkdir -p /mnt/keep && cp -a /var/lib/kiln /mnt/keep/ && \
         printf '[Unit]\\nDefaultDependencies=no\\nBefore=kiln-local.service\\n[Service]\\nType=oneshot\\n\
         ExecStart=/bin/sh -c \"mount -t tmpfs -o size=64k full /var/lib/kiln; dd if=/dev/zero of=/var/lib/kiln/fill; true\"\\n\
         [Install]\\nWantedBy=sysinit.target\\n' >/etc/systemd/system/full.service && systemctl enable full.service",
    );
    machine.reboot();
    let status = machine.settled();
    assert_eq!(status.state, State::Failed);
    let told = machine.shell("kiln-agent status").stdout;
    assert!(told.contains("No space left on device") && told.contains("/var/lib/kiln"), "{told}");
    machine.until("systemctl is-active ssh");
}
