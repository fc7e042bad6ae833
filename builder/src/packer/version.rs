//! Which packer there is, and whether it can make images of EC2.

use crate::system::tools::{Tool, present};

/// From this version on the builders of clouds are plugins that must be installed.
const PLUGINS_APART: (u32, u32) = (1, 10);

/// The oldest version whose builder knows every key of the template.
const OLDEST: (u32, u32) = (1, 6);

/// The words that install the plugin.
const INSTALL_PLUGIN: &str = "packer plugins install github.com/hashicorp/amazon";

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
    TooOld(String),
    /// It has no builder for EC2.
    #[error("packer {0} has no plugin for EC2: run `{INSTALL_PLUGIN}` once")]
    NoPlugin(String),
}

/// The version of packer on the path.
///
/// # Errors
/// When there is none that can make images of EC2, with what to install.
pub fn probe() -> Result<String, Error> {
    if !present("packer") {
        return Err(Error::Missing);
    }
    let said = |args: &[&str]| {
        let tool = Tool::new("packer").args(args).env("CHECKPOINT_DISABLE", "1");
        tool.capture().map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default()
    };
    let (version, plugins_apart) = judge(&said(&["-machine-readable", "version"]))?;
    if plugins_apart && !has_amazon(&said(&["plugins", "installed"])) {
        return Err(Error::NoPlugin(version));
    }
    Ok(version)
}

/// The version in packer's answer, and whether its builders are plugins.
fn judge(answer: &str) -> Result<(String, bool), Error> {
    let version = answer.lines().find_map(|line| line.split(',').skip_while(|field| *field != "version").nth(1));
    let version = version.unwrap_or_default().trim().trim_start_matches('v');
    let mut numbers = version.split('.').map(|number| number.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Error::NotPacker);
    };
    if (major, minor) < OLDEST {
        return Err(Error::TooOld(version.to_owned()));
    }
    Ok((version.to_owned(), (major, minor) >= PLUGINS_APART))
}

fn has_amazon(installed: &str) -> bool {
    installed.lines().any(|line| line.contains("packer-plugin-amazon"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_decides_whether_a_plugin_is_needed() {
        for (answer, expected) in [
            (
                "1795528253,,version,1.6.6\n1795528253,,version-prelease,\n1795528253,,ui,say,Packer v1.6.6",
                ("1.6.6", false),
            ),
            ("1785500000,,version,1.9.5\n", ("1.9.5", false)),
            ("1785500000,,version,1.10.0\n1785500000,,version-commit,abc\n", ("1.10.0", true)),
            ("1785500000,,version,v1.16.0\n", ("1.16.0", true)),
        ] {
            assert_eq!(judge(answer), Ok((expected.0.to_owned(), expected.1)));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_what_to_do() {
        assert_eq!(judge(""), Err(Error::NotPacker));
        assert_eq!(judge("skipping line: 1\n0 0\n"), Err(Error::NotPacker));
        assert_eq!(judge("1,,version,1.5.6"), Err(Error::TooOld("1.5.6".to_owned())));
        let sentence = Error::NoPlugin("1.16.0".to_owned()).to_string();
        assert_eq!(
            sentence,
            "packer 1.16.0 has no plugin for EC2: run `packer plugins install github.com/hashicorp/amazon` once"
        );
    }

    #[test]
    fn the_plugin_is_found_in_the_list_of_installed_ones() {
        let line =
            "/root/.config/packer/plugins/github.com/hashicorp/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_amd64\n";
        assert!(has_amazon(line));
        assert!(!has_amazon("/root/.config/packer/plugins/github.com/hashicorp/qemu/packer-plugin-qemu_v1.1.0\n"));
    }
}
