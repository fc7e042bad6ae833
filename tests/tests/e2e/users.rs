//! Users and groups with the real useradd, visudo and chage: every key, seen with the system's own tools.

use kiln_schema::State;

use crate::root::Root;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKExR7B4ceWuGn+08eZ6FiJuGXg1o1K0gUl18/shSgT2 deploy@example.org";
/// Of the password `kiln`.
const HASH: &str = "$6$saltsalt$ctIwoKjEMOKbnEdVBGkfDgBS0fOUhBmUoIL4S0AHIDjbjL8QDhSDBgEqqMCGLeR9UJUZcFyUwTgXTKGjzGMvE1";

fn user_data() -> String {
    format!(
        "ssh_genkeytypes: [ed25519]
disable_root: true
groups: [ops, {{team: [deploy, daemon]}}]
users:
- default
- name: deploy
  gecos: Deploys, and more
  homedir: /srv/deploy
  primary_group: ops
  groups: www-data, newly
  shell: /bin/sh
  uid: 4242
  sudo: ['ALL=(root) NOPASSWD:/bin/true', 'ALL=(www-data) ALL']
  ssh_authorized_keys: ['{KEY}']
  passwd: {HASH}
  lock_passwd: false
  expiredate: 2032-09-01
  inactive: 7
- {{name: batch, system: true}}
- {{name: nohome, no_create_home: true, no_user_group: true, no_log_init: true}}
- {{name: locked, hashed_passwd: {HASH}}}
- {{name: plain, plain_text_passwd: kiln, lock_passwd: false, sudo: false}}
- {{name: kept, ssh_redirect_user: true}}
- {{name: alone, groups: [lacking, adm], create_groups: false}}
"
    )
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn every_key_of_a_user_does_what_the_systems_tools_then_tell() {
    let root = Root::new();
    root.ask("groupadd --force www-data; rm -rf /etc/sudoers.d/90*");
    let status = root.boot("i-users", &user_data());
    // A group that lacks and is not to be made is told.
    assert_eq!(status.state, State::Failed, "{status:?}");
    let told = status.first_failure().unwrap();
    assert!(told.contains("alone") && told.contains("lacking"), "{told}");
    for (question, answer) in [
        ("getent passwd deploy | cut -d: -f3,5-", "4242:Deploys, and more:/srv/deploy:/bin/sh"),
        ("id -gn deploy", "ops"),
        ("id -Gn deploy | tr ' ' '\\n' | sort | xargs", "newly ops team www-data"),
        ("getent group team | cut -d: -f4", "deploy,daemon"),
        (
            "stat -c '%U %G %a' /srv/deploy/.ssh /srv/deploy/.ssh/authorized_keys | xargs",
            "deploy ops 700 deploy ops 600",
        ),
        ("passwd -S deploy | cut -d' ' -f2", "P"),
        ("chage -l deploy | grep '^Account expires' | cut -d: -f2 | xargs", "Sep 01, 2032"),
        ("getent shadow deploy | cut -d: -f7", "7"),
        ("test $(id -u batch) -lt 1000 && ! test -e /home/batch && echo system", "system"),
        ("! test -e /home/nohome && id -gn nohome", "users"),
        ("passwd -S locked | cut -d' ' -f2", "L"),
        ("passwd -S plain | cut -d' ' -f2", "P"),
        ("visudo -c >/dev/null && echo good", "good"),
        ("sudo -l -U deploy | grep -c -e '(root) NOPASSWD: /bin/true' -e '(www-data) ALL'", "2"),
        ("sudo -l -U plain | grep -c 'not allowed to run sudo'", "1"),
        ("sudo -l -U admin | grep -c '(ALL) NOPASSWD: ALL'", "1"),
        ("getent passwd alone || echo none", "none"),
    ] {
        assert_eq!(root.ask(question), answer, "{question}");
    }
    let keys = root.ask("cat /srv/deploy/.ssh/authorized_keys");
    assert!(keys.contains(KEY), "{keys}");
    let shown =
        root.ask(&format!("grep -rlF '{HASH}' /run/kiln /var/lib/kiln /etc --exclude-dir=ssl | xargs stat -c '%a %n'"));
    assert!(shown.lines().all(|file| file.starts_with("600 ") || file.starts_with("640 /etc/shadow")), "{shown}");
    // Once more as another instance: nothing is made twice, and what the keys say still holds.
    // A password in plain text is set again, with another salt.
    let accounts = "cat /etc/passwd /etc/group /etc/sudoers.d/90-cloud-init-users; grep -v '^plain:' /etc/shadow";
    let before = root.ask(accounts);
    root.boot("i-again", &user_data());
    assert_eq!(root.ask(accounts), before);
}
