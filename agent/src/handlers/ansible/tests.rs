//! Against programs that only tell how they were called.

use super::*;
use crate::handlers::Entry;
use crate::testing;

/// A machine with a user and Ansible, whose programs write down how they were called.
fn machine(tree: &std::path::Path, user_data: &str) -> Option<Context> {
    let context = testing::machine(tree, &["/usr/bin/dash"], user_data)?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nansible:x:1000:1000::/home/ansible:/bin/sh\n";
    context.system.write("/etc/passwd", passwd, FileOptions::default()).unwrap();
    for (name, script) in [
        ("runuser", "echo \"as $2\" >> /said; shift 3; exec \"$@\""),
        (
            "ansible-pull",
            "echo \"$HOME pull $* $ANSIBLE_CONFIG $KILN_GIT_PASSWORD\" >> /said
            case $* in *bad*) echo 'fatal: [x]: FAILED! => no role'; echo end; exit 2;; esac",
        ),
        ("ansible-playbook", "echo \"$PWD play $*\" >> /said"),
        ("ansible-galaxy", "echo \"galaxy $*\" >> /said"),
        ("git", "echo \"git $* $KILN_GIT_NAME\" >> /said"),
    ] {
        let script = format!("#!/usr/bin/dash\n{script}\n");
        testing::executable(&context.system, format!("/usr/bin/{name}"), script);
    }
    Some(context)
}

fn said(context: &Context) -> String {
    context.system.read_text("/said").unwrap_or_default()
}

#[test]
fn every_option_of_a_pull_reaches_it_and_a_failure_is_told_and_stops_no_other() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = "ansible:\n  ansible_config: /etc/a.cfg\n  pull:\n  - {url: 'https://me:hunter2@host/bad', \
        playbook_names: [a.yml, b.yml]}\n  - {url: git@host, playbook_name: c.yml, full: true, clean: false, \
        checkout: v1.10, vault_password_file: /v, accept_host_key: yes}\n  - {url: x}\n";
    let Some(mut context) = machine(tree.path(), user_data) else { return };
    let failure = context.run_handler::<Ansible>().unwrap_err();
    assert_eq!(
        failure.message,
        "ansible.pull[0]: ansible-pull of https://host/bad exited 2: fatal: [x]: FAILED! => no role; \
         ansible.pull[2]: it has not both `url` and `playbook_names`; give them"
    );
    assert_eq!(failure.detail, Some(json!({"ran": ["c.yml"]})));
    assert_eq!(
        said(&context),
        "/root pull --url=https://host/bad a.yml b.yml /etc/a.cfg hunter2\n\
         /root pull --url=git@host --accept-host-key --checkout=v1.10 --full --vault-password-file=/v c.yml /etc/a.cfg \n"
    );
    assert!(!format!("{failure:?}").contains("hunter2"));
}

#[test]
fn a_lone_pull_is_a_list_of_one_and_its_user_runs_it() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = "ansible: {run_user: ansible, pull: {url: x, playbook_name: a.yml, tag: [y, z]}}";
    let Some(mut context) = machine(tree.path(), user_data) else { return };
    context.run_handler::<Ansible>().unwrap();
    assert_eq!(said(&context), "as ansible\n/home/ansible pull --url=x --tag=y --tag=z a.yml  \n");
    let told = Entry::of::<Ansible>().prepare(&context.config).diagnostics;
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["user-data:1:67: warning: ansible.pull.tag: unknown key; did you mean `tags`?"]);
    let Some(mut context) = machine(tree.path(), "ansible: {run_user: joe, pull: {url: x, playbook_name: a}}") else {
        return;
    };
    let failure = context.run_handler::<Ansible>().unwrap_err();
    assert_eq!(failure.message, "ansible.pull[0]: there is no user `joe`; make it with `users`");
}

#[test]
fn a_controller_gets_its_repositories_once_and_runs_its_playbooks_where_they_are() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = "ansible:\n  galaxy: {actions: [[ansible-galaxy, install, x], []]}\n  setup_controller:\n    \
        repositories:\n    - {path: /srv/a/, source: 'https://me:hunter2@host/a'}\n    - {path: /srv/b, source: git@host}\n    \
        - {path: /srv/c}\n    run_ansible:\n    - {playbook_dir: /srv/b, playbook_name: p.yml, timeout: 120, check: true, \
        become_user: ansible, connection-password-file: /p}\n    - {playbook_dir: /srv/none, playbook_name: p.yml}\n    \
        - {playbook_name: q.yml}\n";
    let Some(mut context) = machine(tree.path(), user_data) else { return };
    context.system.make_dir("/srv/b/.git", 0o755, None).unwrap();
    let failure = context.run_handler::<Ansible>().unwrap_err();
    for part in [
        "ansible.galaxy.actions[1]: the command is empty",
        "run_ansible[1]: there is no folder /srv/none",
        "run_ansible[2]: it has not both `playbook_name` and `playbook_dir`",
    ] {
        assert!(failure.message.contains(part), "{part}: {}", failure.message);
    }
    assert_eq!(
        said(&context),
        "galaxy install x\ngit clone --quiet -- https://host/a /srv/a/ me\n\
         /srv/b play p.yml --become-user=ansible --check --connection-password-file=/p --timeout=120\n"
    );
    let told = Entry::of::<Ansible>().prepare(&context.config).diagnostics;
    assert!(told.len() == 1 && told[0].message.contains("the key `source` is missing"), "{told:?}");
}

#[test]
fn pip_installs_for_the_user_and_a_distribution_that_cannot_is_told() {
    let tree = tempfile::tempdir().unwrap();
    let keys = "package_name: ansible-core, pull: {url: x, playbook_name: a}";
    let Some(mut context) =
        machine(tree.path(), &format!("ansible: {{install_method: pip, run_user: ansible, {keys}}}"))
    else {
        return;
    };
    context.system.remove("/usr/bin/ansible-pull").unwrap();
    // pip leaves the program where only its user finds it.
    let script = "#!/usr/bin/dash\necho \"$* $PIP_BREAK_SYSTEM_PACKAGES $PATH\" >> /said\n";
    testing::executable(&context.system, "/usr/bin/python3", script);
    let own = "#!/usr/bin/dash\necho own \"$@\" >> /said\n";
    testing::executable(&context.system, "/home/ansible/own", own);
    let failure = context.run_handler::<Ansible>().unwrap_err();
    assert!(failure.message.starts_with("ansible.pull[0]: ansible-pull of x exited 127"), "{}", failure.message);
    let text = said(&context);
    assert!(text.contains("-m pip install --user -- ansible-core 1 ") && text.contains(":/home/ansible/.local/bin\n"));
    testing::executable(&context.system, "/home/ansible/.local/bin/ansible-pull", own);
    context.system.remove("/said").unwrap();
    context.run_handler::<Ansible>().unwrap();
    assert_eq!(said(&context), "as ansible\nown --url=x a\n");
    context.system.remove("/home/ansible/.local").unwrap();
    for (method, part) in [
        ("distro", "ansible: none of apt-get, dnf, yum and zypper is installed; put ansible-core into the image"),
        ("apt", "ansible: install_method: this is none of distro, pip"),
    ] {
        let mut context = Context::for_test(tree.path(), &format!("ansible: {{install_method: {method}, {keys}}}"));
        let failure = context.run_handler::<Ansible>().unwrap_err();
        assert!(failure.message.starts_with(part), "{}", failure.message);
    }
    let context =
        Context::for_test(tree.path(), "ansible: {install_method: pipp, pull: [{url: x}, {playbook_name: y}]}");
    let told = Entry::of::<Ansible>().prepare(&context.config).diagnostics;
    let paths: Vec<_> = told.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["ansible.pull", "ansible.pull", "ansible.install_method"]);
    let mut context = Context::for_test(tree.path(), "ansible:");
    assert!(matches!(context.run_handler::<Ansible>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
}

#[test]
fn a_clone_that_was_interrupted_is_made_again_and_what_others_have_there_is_not_touched() {
    let tree = tempfile::tempdir().unwrap();
    let user_data =
        "ansible: {setup_controller: {repositories: [{path: /srv/a, source: h}, {path: /srv/b, source: h}]}}";
    let Some(mut context) = machine(tree.path(), user_data) else { return };
    // It ends in the middle of the first, as at a power cut; in the second folder there is something already.
    let write = |path: &str, text: &str| testing::executable(&context.system, path, text);
    write("/usr/bin/git", "#!/usr/bin/dash\necho > /srv/a/.git\nexit 128\n");
    write("/srv/b/mine", "mine");
    context.system.make_dir("/srv/a", 0o755, None).unwrap();
    context.run_handler::<Ansible>().unwrap_err();
    assert!(context.system.exists("/srv/a/.git") && context.system.exists("/srv/b/mine"));
    let script = "#!/usr/bin/dash\n[ ! -e \"$5/.git\" ] || exit 128\necho \"git $*\" >> /said\n";
    testing::executable(&context.system, "/usr/bin/git", script);
    context.run_handler::<Ansible>().unwrap();
    assert_eq!(said(&context), "git clone --quiet -- h /srv/a\ngit clone --quiet -- h /srv/b\n");
    assert!(context.system.exists("/srv/b/mine"));
    // A good one is one for good.
    context.system.make_dir("/srv/a/.git", 0o755, None).unwrap();
    context.system.make_dir("/srv/b/.git", 0o755, None).unwrap();
    context.run_handler::<Ansible>().unwrap();
    assert_eq!(said(&context).lines().count(), 2);
}
