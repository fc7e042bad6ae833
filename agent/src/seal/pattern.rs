//! Patterns of the checklist to what they name in a tree.

use std::collections::BTreeSet;

use crate::system::{Found, Kind, System};

/// First parts of paths that are nobody's home, whatever /etc/passwd says.
const NO_HOMES: &[&str] = &["", "bin", "boot", "dev", "etc", "lib", "nonexistent", "proc", "run", "sbin", "sys", "usr"];

/// A tree with what patterns need to know of it.
pub struct Tree<'a> {
    system: &'a System,
    /// Where other file systems begin.
    pub mounts: BTreeSet<String>,
    /// The homes of all accounts, and every folder in /home.
    pub homes: Vec<String>,
}

impl<'a> Tree<'a> {
    /// Looks up the mounts and the homes.
    pub fn new(system: &'a System) -> Self {
        let passwd = system.read_text("/etc/passwd").unwrap_or_default();
        let told = passwd.lines().filter_map(|line| line.split(':').nth(5)).map(|home| home.trim_end_matches('/'));
        let is_home =
            |home: &&str| home.starts_with('/') && !NO_HOMES.contains(&home[1..].split('/').next().unwrap_or_default());
        let mut homes: BTreeSet<String> = told.filter(is_home).map(str::to_owned).collect();
        homes.insert("/root".to_owned());
        homes.extend(system.children("/home").into_iter().map(|found| found.path));
        let mut tree = Tree { system, mounts: system.mount_points(), homes: Vec::new() };
        tree.homes = homes.into_iter().filter(|home| !tree.find(home).is_empty()).collect();
        tree
    }

    /// What a pattern names. Nothing that lies behind a link or in another file system.
    pub fn find(&self, pattern: &str) -> Vec<Found> {
        match pattern.strip_prefix("~/") {
            Some(rest) => self.homes.iter().flat_map(|home| self.find(&format!("{home}/{rest}"))).collect(),
            None => {
                let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
                let mut found = Vec::new();
                self.descend("", &parts, &mut found);
                found
            }
        }
    }

    fn descend(&self, folder: &str, parts: &[&str], found: &mut Vec<Found>) {
        let Some((part, rest)) = parts.split_first() else {
            return;
        };
        if *part == "**" {
            let fits =
                |path: &str| rest.first().is_none_or(|name| matches(name, path.rsplit('/').next().unwrap_or(path)));
            let mut each = |file: Found| {
                if fits(&file.path) {
                    found.push(file);
                }
            };
            return self.below(if folder.is_empty() { "/" } else { folder }, &mut each);
        }
        let candidates = if part.contains('*') {
            let mut inside = self.system.children(if folder.is_empty() { "/" } else { folder });
            inside.retain(|child| matches(part, child.path.rsplit('/').next().unwrap_or_default()));
            inside
        } else {
            self.system.look(&format!("{folder}/{part}")).into_iter().collect()
        };
        for candidate in candidates {
            if candidate.kind == Kind::Folder && self.mounts.contains(&candidate.path) {
                continue;
            }
            if rest.is_empty() {
                found.push(candidate);
            } else if candidate.kind == Kind::Folder {
                self.descend(&candidate.path, rest, found);
            }
        }
    }

    /// Everything below a folder that is not a folder itself.
    pub fn below(&self, folder: &str, each: &mut dyn FnMut(Found)) {
        self.below_but(folder, &[], each);
    }

    /// The same without some folders.
    pub fn below_but(&self, folder: &str, without: &[&str], each: &mut dyn FnMut(Found)) {
        for child in self.system.children(folder) {
            match child.kind {
                Kind::Folder if self.mounts.contains(&child.path) || without.contains(&child.path.as_str()) => {}
                Kind::Folder => self.below_but(&child.path, without, each),
                _ => each(child),
            }
        }
    }
}

/// Whether a pattern names this very path, part by part.
pub fn names(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(pattern, part)| matches(pattern, part))
}

/// Whether a name fits a pattern in which `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    // In the shell a star does not stand for the dot of a hidden name. Here it must: what is hidden is
    // left behind just as well.
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("ssh_host_*", "ssh_host_rsa_key.pub", true),
            ("ssh_host_*", "ssh_config", false),
            (".*_history", ".bash_history", true),
            (".*_history", "bash_history", false),
            ("*cloud-init*", "90-cloud-init-x.conf", true),
            ("*.bin", "pkgcache.bin", true),
            ("*.bin", "pkgcache.binary", false),
            ("*", ".hidden", true),
            ("*", "é", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_never_stands_for_a_slash() {
        assert!(names("/tmp/systemd-private-*", "/tmp/systemd-private-1-ntp"));
        assert!(!names("/tmp/systemd-private-*", "/tmp/systemd-private-1-ntp/tmp/x"));
    }

    fn paths(tree: &Tree<'_>, pattern: &str) -> Vec<String> {
        tree.find(pattern).into_iter().map(|found| found.path).collect()
    }

    #[test]
    fn a_pattern_reaches_every_home_and_nothing_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let system = System::new(folder.path());
        let passwd =
            "root:x:0:0::/root:/bin/sh\nbin:x:2:2::/bin:/x\ndb:x:9:9::/var/lib/db:/x\nno:x:8:8::/nonexistent:/x\n";
        system.write("/etc/passwd", passwd, FileOptions::default()).unwrap();
        for path in ["/root/.x", "/home/a/.x", "/home/b/.x", "/var/lib/db/.x", "/bin/.x", "/secret/.x"] {
            system.write(path, "", FileOptions::default()).unwrap();
        }
        system.link("/home/evil", "/secret").unwrap();
        let mut tree = Tree::new(&system);
        assert_eq!(paths(&tree, "~/.x"), ["/home/a/.x", "/home/b/.x", "/root/.x", "/var/lib/db/.x"]);
        tree.mounts.insert("/home/b".to_owned());
        assert_eq!(paths(&tree, "~/.x"), ["/home/a/.x", "/root/.x", "/var/lib/db/.x"]);
        assert_eq!(paths(&tree, "/home/**"), ["/home/a/.x", "/home/evil"]);
        assert_eq!(paths(&tree, "/nothing/*/here"), Vec::<String>::new());
    }
}
