//! Who is in /etc/passwd and /etc/group of the root; for numbers to names no library under a root exists.

use super::System;

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A line of /etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the members.
    pub members: Vec<String>,
}

impl System {
    /// The account of this name, or of this number.
    pub fn account(&self, name: &str) -> Option<Account> {
        let text = self.read_text("/etc/passwd").ok()?;
        let number: Option<u32> = name.parse().ok();
        let accounts = || {
            text.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, uid, gid, _, home, shell] = fields[..] else {
                    return None;
                };
                Some(Account {
                    name: name.to_owned(),
                    uid: uid.parse().ok()?,
                    gid: gid.parse().ok()?,
                    home: home.to_owned(),
                    shell: shell.to_owned(),
                })
            })
        };
        accounts().find(|a| a.name == name).or_else(|| accounts().find(|a| Some(a.uid) == number))
    }

    /// The group of this name, or of this number.
    pub fn group(&self, name: &str) -> Option<Group> {
        let text = self.read_text("/etc/group").ok()?;
        let number: Option<u32> = name.parse().ok();
        let groups = || {
            text.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, gid, members] = fields[..] else {
                    return None;
                };
                Some(Group {
                    name: name.to_owned(),
                    gid: gid.parse().ok()?,
                    members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
                })
            })
        };
        groups().find(|g| g.name == name).or_else(|| groups().find(|g| Some(g.gid) == number))
    }

    /// User and group ids of `user`, `user:group` or `:group`; numbers are taken as they are.
    ///
    /// # Errors
    /// The name that does not exist.
    pub fn owner_ids(&self, owner: &str) -> Result<(u32, u32), String> {
        let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
        let (uid, own_group) = match (user, self.account(user)) {
            ("", _) => (0, 0),
            (_, Some(account)) => (account.uid, account.gid),
            (number, None) => number.parse().map(|uid| (uid, uid)).map_err(|_| format!("no user `{user}`"))?,
        };
        let gid = match (group, self.group(group)) {
            // A user alone means root's group to cloud-init only where the user is root.
            ("", _) => own_group,
            (_, Some(group)) => group.gid,
            (number, None) => number.parse().map_err(|_| format!("no group `{group}`"))?,
        };
        Ok((uid, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn owners_are_found_by_name_and_by_number() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:1000:1001::/home/web:/bin/sh\n";
        system.write("/etc/passwd", passwd, FileOptions::default()).unwrap();
        system.write("/etc/group", "root:x:0:\nadm:x:4:web\nweb:x:1001:\n", FileOptions::default()).unwrap();
        for (owner, ids) in [
            ("root:root", Ok((0, 0))),
            ("web", Ok((1000, 1001))),
            ("web:adm", Ok((1000, 4))),
            ("1000:4", Ok((1000, 4))),
            (":adm", Ok((0, 4))),
            ("nobody", Err("no user `nobody`".to_owned())),
            ("web:nothing", Err("no group `nothing`".to_owned())),
        ] {
            assert_eq!(system.owner_ids(owner), ids, "{owner}");
        }
        assert_eq!(system.account("web").unwrap().home, "/home/web");
    }
}
