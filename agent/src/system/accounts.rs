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
        find(&text, name, |fields: [&str; 7]| {
            let [name, _, uid, gid, _, home, shell] = fields;
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned(), shell: shell.to_owned() })
        })
    }

    /// The group of this name, or of this number.
    pub fn group(&self, name: &str) -> Option<Group> {
        group_of(&self.read_text("/etc/group").ok()?, name)
    }

    /// Those of these groups that exist.
    pub fn existing_groups(&self, names: &[&str]) -> Vec<String> {
        let text = self.read_text("/etc/group").unwrap_or_default();
        // All of a default user's, so the file is taken apart once.
        let known: Vec<&str> = text
            .lines()
            .filter_map(|line| fields_of(line).and_then(|[name, _, gid, _]| gid.parse::<u32>().is_ok().then_some(name)))
            .collect();
        names.iter().filter(|name| known.contains(name)).map(|name| (*name).to_owned()).collect()
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

fn group_of(text: &str, name: &str) -> Option<Group> {
    find(text, name, |fields: [&str; 4]| {
        let [name, _, gid, members] = fields;
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
    })
}

/// The first line of `N` fields that `read` takes and whose first field is `name`; without one, that
/// whose third field is the same number.
fn find<T, const N: usize>(text: &str, name: &str, read: impl Fn([&str; N]) -> Option<T>) -> Option<T> {
    let by = |is_wanted: &dyn Fn(&str) -> bool| {
        text.lines().filter(|line| is_wanted(line)).find_map(|line| fields_of(line).and_then(&read))
    };
    let by_number = |number: u32| by(&|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(number)));
    by(&|line| line.starts_with(name) && line.split(':').next() == Some(name))
        .or_else(|| name.parse().ok().and_then(by_number))
}

/// The fields of a line that has exactly `N`.
fn fields_of<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut fields = line.split(':');
    let mut found = [""; N];
    for field in &mut found {
        *field = fields.next()?;
    }
    fields.next().is_none().then_some(found)
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
