//! Which keys of the builder `amazon-ebs` came with which version.
//!
//! The template wants the best there is and leaves out what a version does not know: an unknown key
//! ends a build before it begins. To use a key that 1.6.6 lacks, add a row, and ask for it in `template`.

use super::version::{Packer, Version};

/// A key that not every version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `temporary_key_pair_type`: a key that a new sshd accepts.
    KeyPairType,
    /// `metadata_options`: how the instance of the bake answers for its metadata.
    MetadataOptions,
    /// `imds_support`: how every instance of the image does.
    ImdsSupport,
    /// `skip_create_ami`: a build without an image.
    SkipCreateAmi,
}

/// Since when there is a key.
struct Capability {
    key: Key,
    /// As the template spells it.
    name: &'static str,
    /// The first version of packer whose own builder has it; none where that builder never got it.
    bundled: Option<Version>,
    /// The first version of the plugin that has it.
    plugin: Version,
    /// What a bake is like without it. None for a key that is not in every template.
    without: Option<&'static str>,
}

/// The first version of the plugin: it began with all that packer's own builder had then.
const ALWAYS: Version = Version(0, 0, 1);

const CAPABILITIES: [Capability; 4] = [
    Capability {
        key: Key::KeyPairType,
        name: "temporary_key_pair_type",
        bundled: Some(Version(1, 6, 6)),
        plugin: ALWAYS,
        without: Some("the temporary key is of RSA, which a base with a new sshd may refuse"),
    },
    Capability {
        key: Key::MetadataOptions,
        name: "metadata_options",
        bundled: Some(Version(1, 7, 0)),
        plugin: ALWAYS,
        without: Some("the instance of the bake answers IMDSv1 too, unless the account's own default is IMDSv2"),
    },
    Capability {
        key: Key::ImdsSupport,
        name: "imds_support",
        // Packer had its own builder up to 1.9, and always one older than this key.
        bundled: None,
        plugin: Version(1, 2, 2),
        without: Some("instances of the image answer IMDSv1 too, unless they are launched otherwise"),
    },
    Capability {
        key: Key::SkipCreateAmi,
        name: "skip_create_ami",
        bundled: Some(Version(1, 7, 0)),
        plugin: ALWAYS,
        without: None,
    },
];

impl Packer {
    /// Whether the builder of this packer has the key.
    pub fn knows(&self, key: Key) -> bool {
        CAPABILITIES.iter().any(|capability| capability.key == key && self.has(capability))
    }

    /// What is left out of the template, each with its reason and what follows from it.
    pub fn left_out(&self) -> Vec<String> {
        let lacking = CAPABILITIES.iter().filter(|capability| !self.has(capability));
        let sentence = |capability: &Capability| {
            let Capability { name, without, .. } = capability;
            without.map(|without| format!("`{name}` is left out, because packer {self} does not know it: {without}"))
        };
        lacking.filter_map(sentence).collect()
    }

    fn has(&self, capability: &Capability) -> bool {
        match &self.plugin {
            Some(plugin) => *plugin >= capability.plugin,
            None => capability.bundled.is_some_and(|since| self.version >= since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_the_keys_that_it_has() {
        use Key::{ImdsSupport, KeyPairType, MetadataOptions, SkipCreateAmi};
        let own = |major, minor, patch| Packer::new(Version(major, minor, patch), None);
        let with = |plugin| Packer::new(Version(1, 16, 0), Some(plugin));
        for (packer, keys) in [
            (own(1, 6, 0), &[][..]),
            (own(1, 6, 6), &[KeyPairType]),
            (own(1, 7, 0), &[KeyPairType, MetadataOptions, SkipCreateAmi]),
            (own(1, 9, 5), &[KeyPairType, MetadataOptions, SkipCreateAmi]),
            (with(Version(1, 2, 1)), &[KeyPairType, MetadataOptions, SkipCreateAmi]),
            (with(Version(1, 2, 2)), &[KeyPairType, MetadataOptions, ImdsSupport, SkipCreateAmi]),
            (with(Version(1, 8, 2)), &[KeyPairType, MetadataOptions, ImdsSupport, SkipCreateAmi]),
            // An old packer with a plugin uses the plugin.
            (
                Packer::new(Version(1, 8, 0), Some(Version(1, 3, 1))),
                &[KeyPairType, MetadataOptions, ImdsSupport, SkipCreateAmi],
            ),
        ] {
            let known: Vec<_> = CAPABILITIES.iter().map(|c| c.key).filter(|key| packer.knows(*key)).collect();
            assert_eq!(known, keys, "{packer}");
        }
    }

    #[test]
    fn what_is_left_out_is_told_with_its_reason_and_what_follows() {
        assert_eq!(
            Packer::new(Version(1, 6, 6), None).left_out(),
            [
                "`metadata_options` is left out, because packer 1.6.6 does not know it: the instance of the bake \
                 answers IMDSv1 too, unless the account's own default is IMDSv2",
                "`imds_support` is left out, because packer 1.6.6 does not know it: instances of the image answer \
                 IMDSv1 too, unless they are launched otherwise",
            ]
        );
        assert!(Packer::new(Version(1, 16, 0), Some(Version(1, 8, 2))).left_out().is_empty());
    }
}
