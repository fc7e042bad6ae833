//! What must not be in an image, as data. To add an entry, add it to [`CHECKLIST`]; where it guards a
//! secret or an identity, give `verify` a rule that would find it without this list.
//!
//! Some things stay, on purpose:
//! - `/etc/sudoers.d/90-cloud-init-users`: the accounts that it names stay as well, and nobody can log
//!   in to them without a key. Without it an instance that sets up no users would have no way to root.
//! - `/etc/resolv.conf`: a static one is somebody's decision, any other is written at boot.
//! - `.ssh/known_hosts`: applications ship them to be able to check out code.
//! - `/etc/ssl/private/ssl-cert-snakeoil.key`: nobody trusts it, and services that name it would not start.
//! - `/etc/ssh/sshd_config.d/50-cloud-init.conf` and lines of `/etc/fstab`: what a bake sets there is meant
//!   for the instances, and without the first sshd may take passwords that it refused before.
//! - Connections of NetworkManager that cloud-init did not write, and crontabs: somebody's decision.
//! - `/var/lib/dnf/history.sqlite`: dnf knows by it which packages were asked for.

use super::edits;
use crate::system::System;

/// What to do with what a pattern names.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Remove it, with everything in it.
    Remove,
    /// Make it an empty file; it must be there and have nothing in it.
    Blank,
    /// Empty the files in place, as daemons have them open; remove what logrotate has put aside.
    Logs,
    /// Remove it where cloud-init has a part of that file name among the user-data; before that goes.
    Parts,
    /// Change what is in the files: the new text, or none where nothing is to go.
    Edit(fn(&System, &str) -> Option<String>),
    /// Make what was deleted unreadable in the blocks of the disk.
    Free,
}

/// One entry of the checklist.
#[derive(Debug)]
pub struct Item {
    /// Its name, for `--skip` and the report.
    pub id: &'static str,
    /// Why it must not be in an image.
    pub why: &'static str,
    /// What to do.
    pub action: Action,
    /// What it is about. `~` at the start is each account's home, `*` any part of a name, `**` at the
    /// end everything below. A pattern never leads through a link or a mount.
    pub paths: &'static [&'static str],
    /// Of these, what stays.
    pub keep: &'static [&'static str],
    /// Only where this is there.
    pub when: Option<&'static str>,
}

impl Item {
    const fn remove(id: &'static str, why: &'static str, paths: &'static [&'static str]) -> Self {
        Item { id, why, action: Action::Remove, paths, keep: &[], when: None }
    }
}

/// The checklist, in the order in which it is worked off. Names are taken out of /etc/hosts before
/// /etc/hostname goes, and logs go late, since work before them is logged. The list of names is
/// [`kiln_schema::seal::IDS`], since kiln.yaml knows them too.
pub static CHECKLIST: &[Item] = &[
    Item::remove(
        "ssh-host-keys",
        "instances that share a host key can be impersonated by each other",
        &["/etc/ssh/ssh_host_*"],
    ),
    Item::remove(
        "authorized-keys",
        "a key of the bake, the builder's temporary one too, would open every instance",
        &[
            "~/.ssh/authorized_keys",
            "~/.ssh/authorized_keys2",
            "/etc/ssh/authorized_keys/*",
            "/etc/ssh/authorized_keys.d/*",
            "/etc/ssh/keys/*",
        ],
    ),
    Item {
        action: Action::Edit(edits::without_passwords),
        ..Item::remove(
            "passwords",
            "whoever knows one password could log in to every instance",
            &["/etc/shadow", "/etc/passwd"],
        )
    },
    Item::remove(
        "shell-history",
        "commands that were typed may hold passwords",
        &["~/*_history", "~/.lesshst", "~/.viminfo", "~/.local/share/fish/fish_history", "~/.wget-hsts"],
    ),
    Item::remove(
        "tool-secrets",
        "credentials of the person or the job that baked",
        &[
            "~/.aws",
            "~/.azure",
            "~/.boto",
            "~/.config/containers/auth.json",
            "~/.config/gcloud",
            "~/.config/gh",
            "~/.docker/config.json",
            "~/.git-credentials",
            "~/.kube",
            "~/.my.cnf",
            "~/.netrc",
            "~/.pgpass",
            "~/.pypirc",
            "~/.s3cfg",
            "~/.terraform.d/credentials.tfrc.json",
            "~/.vault-token",
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
            "/etc/kubernetes/kubelet.conf",
            "/var/lib/kubelet/pki/*",
        ],
    ),
    Item {
        action: Action::Blank,
        ..Item::remove(
            "machine-id",
            "instances with one machine id get one DHCP lease and mix their journals",
            &["/etc/machine-id"],
        )
    },
    Item::remove(
        "machine-identity",
        "the same as the machine id, kept elsewhere",
        &[
            "/var/lib/dbus/machine-id",
            "/var/lib/systemd/credential.secret",
            "/etc/krb5.keytab",
            "/etc/chef/client.pem",
            "/etc/chef/validation.pem",
            "/etc/salt/pki/minion/minion.pem",
            "/etc/wireguard/*.conf",
        ],
    ),
    Item::remove(
        "random-seed",
        "instances that start from one seed may draw one set of random numbers",
        &["/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed"],
    ),
    Item::remove(
        "dhcp-leases",
        "an instance would ask for the address of the machine that baked",
        &[
            "/var/lib/dhcp/*",
            "/var/lib/dhclient/*",
            "/var/lib/dhcpcd/*",
            "/var/lib/NetworkManager/*.lease",
            "/var/lib/NetworkManager/secret_key",
            "/var/lib/NetworkManager/timestamps",
        ],
    ),
    Item::remove(
        "persistent-net",
        "a network card of the machine that baked would keep its name from the instance's card",
        &["/etc/udev/rules.d/70-persistent-net.rules"],
    ),
    Item {
        action: Action::Edit(edits::without_cards),
        ..Item::remove(
            "network-cards",
            "a connection bound to the card of the machine that baked would find none",
            &["/etc/sysconfig/network-scripts/ifcfg-*"],
        )
    },
    Item {
        action: Action::Edit(edits::without_own_name),
        ..Item::remove("hosts", "the name and address of the machine that baked", &["/etc/hosts"])
    },
    Item::remove("hostname", "the name of the machine that baked", &["/etc/hostname"]),
    Item::remove(
        "puppet-identity",
        "instances with one certificate are one node to the server, and a challenge password is a secret",
        &[
            "/var/lib/puppet/ssl/*",
            "/etc/puppet/ssl/*",
            "/etc/puppetlabs/puppet/ssl/*",
            "/etc/puppet/csr_attributes.yaml",
            "/etc/puppetlabs/puppet/csr_attributes.yaml",
        ],
    ),
    Item::remove(
        "puppet-state",
        "catalogues, reports and file backups of the machine that baked hold its secrets and its verdicts",
        &[
            "/var/cache/puppet/client_data/*",
            "/var/cache/puppet/client_yaml/*",
            "/var/cache/puppet/clientbucket/*",
            "/var/cache/puppet/public/*",
            "/var/cache/puppet/reports/*",
            "/var/cache/puppet/state/*",
            "/opt/puppetlabs/puppet/cache/client_data/*",
            "/opt/puppetlabs/puppet/cache/client_yaml/*",
            "/opt/puppetlabs/puppet/cache/clientbucket/*",
            "/opt/puppetlabs/puppet/cache/reports/*",
            "/opt/puppetlabs/puppet/cache/state/*",
            "/opt/puppetlabs/puppet/public/*",
        ],
    ),
    Item {
        keep: &["/var/lib/kiln/scripts"],
        ..Item::remove(
            "agent-state",
            "an instance of this image must run every handler, those that run once too",
            &[
                "/var/lib/kiln/*",
                "/run/kiln",
                "/etc/kiln/agent.d/90-bake.yaml",
                "/etc/facter/facts.d/kiln.json",
                "/opt/puppetlabs/facter/facts.d/kiln.json",
            ],
        )
    },
    Item {
        action: Action::Parts,
        ..Item::remove(
            "user-data-scripts",
            "scripts of the bake's user-data, which cloud-init puts beside those that the image brings",
            &["/var/lib/cloud/scripts/per-*/*"],
        )
    },
    Item {
        keep: &["/var/lib/cloud/scripts", "/var/lib/cloud/scripts/per-*"],
        ..Item::remove(
            "cloud-init-state",
            "cloud-init would take the instance for the machine that baked; its cache holds user-data",
            &["/var/lib/cloud/*", "/var/lib/cloud/scripts/*", "/run/cloud-init"],
        )
    },
    Item::remove(
        "azure-order",
        "what the machine that baked was ordered with at Azure, its user-data among it",
        &["/var/lib/waagent/ovf-env.xml", "/var/lib/waagent/ovf-env.id"],
    ),
    Item {
        when: Some("/usr/bin/cloud-init"),
        ..Item::remove(
            "cloud-init-network",
            "addresses and network cards of the machine that baked; cloud-init writes them anew",
            &[
                "/etc/netplan/50-cloud-init.yaml",
                "/etc/network/interfaces.d/50-cloud-init*",
                "/etc/systemd/network/10-cloud-init-*",
                "/etc/NetworkManager/conf.d/*cloud-init*",
                "/etc/NetworkManager/system-connections/cloud-init-*",
            ],
        )
    },
    Item::remove(
        "ssm-registration",
        "instances that share a registration are one to Systems Manager",
        &["/var/lib/amazon/ssm/*"],
    ),
    Item::remove(
        "account-backups",
        "copies of the password file keep accounts and hashes that were removed",
        &[
            "/etc/passwd-",
            "/etc/shadow-",
            "/etc/group-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
            "/var/backups/*",
        ],
    ),
    Item::remove(
        "editor-backups",
        "copies that editors leave keep what was taken out of the file",
        &["/etc/**/*~", "/etc/**/*.bak", "~/*~", "~/*.bak"],
    ),
    Item::remove(
        "crash-dumps",
        "the memory of a program that crashed may hold any secret",
        &["/var/crash/*", "/var/lib/systemd/coredump/*"],
    ),
    Item::remove("mail", "mail of the machine that baked", &["/var/mail/*", "/var/spool/mail/*"]),
    Item::remove(
        "pending-jobs",
        "what was put off on the machine that baked would run on every instance",
        &["/var/spool/at/*", "/var/spool/cron/atjobs/*", "/var/spool/cron/atspool/*"],
    ),
    Item::remove(
        "installer",
        "answers given to the installer, passwords among them",
        &["/root/anaconda-ks.cfg", "/root/original-ks.cfg", "/var/log/installer"],
    ),
    Item::remove(
        "package-caches",
        "they are stale by the time the image starts, and large",
        &[
            "/var/lib/apt/lists/*",
            "/var/cache/apt/archives/*",
            "/var/cache/apt/*.bin",
            "/var/cache/dnf/*",
            "/var/cache/yum/*",
            "/var/cache/zypp/*",
            "/var/lib/yum/history/*",
        ],
    ),
    Item::remove("user-caches", "they hold what the bake downloaded", &["~/.cache"]),
    Item {
        // Services that run have their own /tmp there; it is emptied and stays until they stop.
        keep: &["/tmp/systemd-private-*", "/var/tmp/systemd-private-*"],
        ..Item::remove(
            "temporary-files",
            "scripts of the bake, with what was given to them, and the gate's report: bring it home first",
            &["/tmp/*", "/var/tmp/*", "/tmp/systemd-private-*/tmp/*", "/var/tmp/systemd-private-*/tmp/*"],
        )
    },
    Item::remove(
        "journal",
        "the journal of the machine that baked, and how far it was read",
        &["/var/log/journal/*", "/var/lib/rsyslog/imjournal.state"],
    ),
    Item {
        action: Action::Logs,
        ..Item::remove(
            "logs",
            "logs of the machine that baked, its logins among them",
            &["/var/log/**", "/var/lib/logrotate/*status", "/var/lib/logrotate.status"],
        )
    },
    Item {
        action: Action::Free,
        ..Item::remove(
            "free-space",
            "what was deleted stays in the blocks of the disk and reaches the snapshot",
            &["/"],
        )
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_can_be_named_and_explained() {
        let mut ids: Vec<_> = CHECKLIST.iter().map(|item| item.id).collect();
        assert_eq!(ids, kiln_schema::seal::IDS, "the builder checks kiln.yaml by that list");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), CHECKLIST.len(), "two entries with one id");
        for item in CHECKLIST {
            assert!(item.id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", item.id);
            assert!(!item.why.is_empty() && !item.why.ends_with('.'), "{}", item.id);
            assert!(item.paths.iter().all(|path| path.starts_with('/') || path.starts_with("~/")), "{}", item.id);
        }
    }

    #[test]
    fn the_name_leaves_hosts_before_it_is_forgotten() {
        let place = |id| CHECKLIST.iter().position(|item| item.id == id).unwrap();
        assert!(place("hosts") < place("hostname"));
        assert_eq!(place("free-space"), CHECKLIST.len() - 1, "what goes after it is readable in free blocks");
    }
}
