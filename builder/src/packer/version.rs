//! Which packer there is, and whether it can make images of EC2.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::system::tools::{Tool, present};

/// From this version on the builders of clouds are plugins that must be installed.
const PLUGINS_APART: Version = Version(1, 10, 0);

/// From this version on an installed plugin takes the place of the builder in packer.
const PLUGINS: Version = Version(1, 7, 0);

/// The oldest version that reads the template.
const OLDEST: Version = Version(1, 6, 0);

/// The variable that names the folder of plugins.
pub const PLUGIN_PATH: &str = "PACKER_PLUGIN_PATH";

/// The words that install the plugin.
const INSTALL_PLUGIN: &str = "packer plugins install github.com/hashicorp/amazon";

/// How the program of the plugin is called, up to its version.
const PLUGIN: &str = "packer-plugin-amazon";

/// A released version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The version that a text begins with: `1.16.0`, `v1.8.2_x5.0`, `1.9.0-dev`. None without two numbers.
    fn parse(text: &str) -> Option<Version> {
        let text = text.trim().trim_start_matches('v');
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
        Some(Version(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A packer that can make images of EC2. As text it is what goes into the bake key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packer {
    /// Its own version.
    pub version: Version,
    /// That of the plugin for EC2; none where its own builder is used.
    pub plugin: Option<Version>,
    /// The folder of plugins, where kiln.yaml or the environment names one.
    pub plugin_path: Option<PathBuf>,
}

impl Packer {
    /// A packer with the usual folder of plugins.
    pub fn new(version: Version, plugin: Option<Version>) -> Packer {
        Packer { version, plugin, plugin_path: None }
    }
}

impl fmt::Display for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.version)?;
        self.plugin.map_or(Ok(()), |plugin| write!(f, " with its plugin amazon {plugin}"))
    }
}

/// Why packer cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error(
        "packer is not on the path: install it with `apt-get install packer` or from \
         https://developer.hashicorp.com/packer/install"
    )]
    Missing,
    /// Something else has its name; cracklib's tool does on some systems.
    #[error("the packer on the path does not say its version, so it is not HashiCorp's: put the right one first")]
    NotPacker,
    /// It cannot read the template.
    #[error("packer {0} is too old: kiln needs 1.6 or later")]
    TooOld(Version),
    /// It has no builder for EC2.
    #[error("packer {version} has no plugin for EC2{}: run `{}` once", place(path), install(path))]
    NoPlugin {
        /// Its version.
        version: Version,
        /// Where it was looked for, other than in the usual folder.
        path: Option<PathBuf>,
    },
}

fn place(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
}

fn install(path: &Option<PathBuf>) -> String {
    let variable = path.as_ref().map(|path| format!("{PLUGIN_PATH}={} ", path.display()));
    format!("{}{INSTALL_PLUGIN}", variable.unwrap_or_default())
}

/// The packer on the path, with the plugins in this folder; without one, in that of the environment or the
/// usual one.
///
/// # Errors
/// When there is none that can make images of EC2, with what to install.
pub fn probe(plugin_path: Option<&Path>) -> Result<Packer, Error> {
    if !present("packer") {
        return Err(Error::Missing);
    }
    let path = plugin_path.map(Path::to_owned).or_else(|| std::env::var_os(PLUGIN_PATH).map(PathBuf::from));
    // Packer is run in another folder than this.
    let path = path.filter(|path| !path.as_os_str().is_empty()).map(|path| std::path::absolute(&path).unwrap_or(path));
    let said = |args: &[&str]| {
        let mut tool = Tool::new("packer").args(args).env("CHECKPOINT_DISABLE", "1");
        if let Some(path) = &path {
            tool = tool.env(PLUGIN_PATH, path);
        }
        tool.capture().map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default()
    };
    judge(&said(&["-machine-readable", "version"]), || said(&["plugins", "installed"]), path.clone())
}

/// What packer's answers say. The second is asked for only where there can be plugins.
fn judge(answer: &str, installed: impl FnOnce() -> String, path: Option<PathBuf>) -> Result<Packer, Error> {
    let version = answer.lines().find_map(|line| line.split(',').skip_while(|field| *field != "version").nth(1));
    let version = version.and_then(Version::parse).ok_or(Error::NotPacker)?;
    if version < OLDEST {
        return Err(Error::TooOld(version));
    }
    let plugin = if version >= PLUGINS { newest(&installed()) } else { None };
    if plugin.is_none() && version >= PLUGINS_APART {
        return Err(Error::NoPlugin { version, path });
    }
    Ok(Packer { version, plugin, plugin_path: path })
}

/// The newest plugin in the list, which is the one that packer takes for a template of JSON.
fn newest(installed: &str) -> Option<Version> {
    let names = installed.lines().filter_map(|line| line.rsplit_once(PLUGIN)?.1.strip_prefix("_v"));
    names.filter_map(Version::parse).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What packer prints for `plugins installed`: one path a line.
    const INSTALLED: &str = "/root/.config/packer/plugins/github.com/hashicorp/amazon/packer-plugin-amazon_v1.3.10_x5.0_linux_amd64\n\
         /root/.config/packer/plugins/github.com/hashicorp/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_amd64\n\
         /root/.config/packer/plugins/github.com/hashicorp/docker/packer-plugin-docker_v1.0.8_x5.0_linux_amd64\n";

    fn judged(answer: &str, installed: &str) -> Result<String, Error> {
        judge(answer, || installed.to_owned(), None).map(|packer| packer.to_string())
    }

    #[test]
    fn the_version_decides_whether_a_plugin_is_needed() {
        for (answer, installed, expected) in [
            (
                "1795528253,,version,1.6.6\n1795528253,,version-prelease,\n1795528253,,ui,say,Packer v1.6.6",
                INSTALLED,
                "1.6.6",
            ),
            ("1785500000,,version,1.9.5\n", "", "1.9.5"),
            ("1785500000,,version,1.9.5\n", INSTALLED, "1.9.5 with its plugin amazon 1.8.2"),
            ("1785500000,,version,1.10.0\n,,version-commit,abc\n", INSTALLED, "1.10.0 with its plugin amazon 1.8.2"),
            ("1785500000,,version,v1.16.0\n", INSTALLED, "1.16.0 with its plugin amazon 1.8.2"),
            ("1785500000,,version,1.16.0-dev\n", INSTALLED, "1.16.0 with its plugin amazon 1.8.2"),
        ] {
            assert_eq!(judged(answer, installed).as_deref(), Ok(expected), "{answer}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_what_to_do() {
        assert_eq!(judged("", ""), Err(Error::NotPacker));
        assert_eq!(judged("skipping line: 1\n0 0\n", ""), Err(Error::NotPacker));
        assert_eq!(judged("1,,version,1.5.6", ""), Err(Error::TooOld(Version(1, 5, 6))));
    }

    #[test]
    fn pain_9_a_packer_without_its_plugin_is_answered_with_the_exact_command() {
        let other = "/p/github.com/hashicorp/qemu/packer-plugin-qemu_v1.1.0_x5.0_linux_amd64\n";
        for version in ["1.10.0", "1.11.2", "1.16.0"] {
            for installed in ["", other] {
                assert_eq!(
                    judged(&format!("1,,version,{version}\n"), installed).unwrap_err().to_string(),
                    format!(
                        "packer {version} has no plugin for EC2: run `packer plugins install \
                         github.com/hashicorp/amazon` once"
                    )
                );
            }
        }
        let private = judge("1,,version,1.16.0", String::new, Some("/opt/plugins".into())).unwrap_err();
        assert_eq!(
            private.to_string(),
            "packer 1.16.0 has no plugin for EC2 in /opt/plugins: run `PACKER_PLUGIN_PATH=/opt/plugins packer plugins \
             install github.com/hashicorp/amazon` once"
        );
    }
}
