//! Which distribution the image is of, from os-release.

use super::System;

/// What os-release says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distro {
    /// `ID`: `debian`, `ubuntu`, `amzn`, `rhel`; empty where there is no os-release.
    pub id: String,
    /// `ID_LIKE`, the closest relation first.
    pub like: Vec<String>,
    /// `VERSION_ID`: `12`, `24.04`; empty where there is none.
    pub version: String,
    /// `VERSION_CODENAME`: `bookworm`, `noble`; empty where there is none.
    pub codename: String,
}

impl System {
    /// The distribution of the image, as it was at the first question.
    pub fn distro(&self) -> &Distro {
        self.facts.distro.get_or_init(|| {
            let text = self.read_text("/etc/os-release").or_else(|_| self.read_text("/usr/lib/os-release"));
            Distro::parse(&text.unwrap_or_default())
        })
    }
}

impl Distro {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            line.map_or("", |value| value.trim().trim_matches(['"', '\''])).to_lowercase()
        };
        Distro {
            id: field("ID"),
            like: field("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
            version: field("VERSION_ID"),
            codename: field("VERSION_CODENAME"),
        }
    }

    /// Whether it is of Red Hat's family: RHEL, Fedora, CentOS, Amazon Linux and those built from them.
    pub fn is_red_hat(&self) -> bool {
        self.is_of(&["rhel", "fedora", "centos", "amzn"])
    }

    /// Whether it is of Debian's family: Debian, Ubuntu and those built from them.
    pub fn is_debian(&self) -> bool {
        self.is_of(&["debian", "ubuntu"])
    }

    fn is_of(&self, family: &[&str]) -> bool {
        std::iter::once(&self.id).chain(&self.like).any(|id| family.contains(&id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_seen_through_the_ids_a_distribution_names() {
        for (text, id, red_hat, debian) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", "debian", false, true),
            ("ID=ubuntu\nID_LIKE=debian\n", "ubuntu", false, true),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "linuxmint", false, true),
            ("ID=\"amzn\"\nID_LIKE=\"fedora\"\n", "amzn", true, false),
            ("ID='rocky'\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=9\n", "rocky", true, false),
            ("VERSION_ID=1\nID_LIKE=suse\n", "", false, false),
            ("", "", false, false),
        ] {
            let distro = Distro::parse(text);
            assert_eq!((distro.id.as_str(), distro.is_red_hat(), distro.is_debian()), (id, red_hat, debian), "{text}");
        }
    }
    #[test]
    fn the_release_has_a_number_and_a_name_where_it_says_so() {
        let distro = Distro::parse("ID=ubuntu\nVERSION_ID=\"24.04\"\nVERSION=\"24.04 LTS\"\nVERSION_CODENAME=noble\n");
        assert_eq!((distro.version.as_str(), distro.codename.as_str()), ("24.04", "noble"));
        let distro = Distro::parse("ID=debian\nPRETTY_NAME=sid\n");
        assert_eq!((distro.version.as_str(), distro.codename.as_str()), ("", ""));
    }
}
