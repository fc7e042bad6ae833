//! The keys of apt.

use kiln_schema::yaml::{Each, Named};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::handlers::edit::Pairs;

/// Keys of the handler.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// How apt is set up.
    pub apt: Option<Keys>,
}

/// How apt is set up.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keys {
    /// Leave the image's own list of sources as it is, whatever `sources_list` says.
    pub preserve_sources_list: bool,
    /// The list of sources, in one-line or deb822 form, with $MIRROR, $PRIMARY, $SECURITY and $RELEASE.
    pub sources_list: Option<String>,
    /// What $MIRROR and $PRIMARY stand for; the distribution's own without the key.
    pub primary: Each<Mirror>,
    /// What $SECURITY stands for; the distribution's own without the key.
    pub security: Each<Mirror>,
    /// More sources, by name.
    pub sources: Named<Source>,
    /// Settings of apt, for a file of their own.
    pub conf: Option<String>,
    /// The proxy for sources of http.
    pub proxy: Option<String>,
    /// Another name of `proxy`.
    pub http_proxy: Option<String>,
    /// The proxy for sources of https.
    pub https_proxy: Option<String>,
    /// The proxy for sources of ftp.
    pub ftp_proxy: Option<String>,
    /// Answers for packages, as debconf-set-selections reads them, under any names.
    pub debconf_selections: Pairs,
    /// Not supported: leave the suites out of `sources_list`.
    pub disable_suites: Each<String>,
    /// Of no meaning: a source that begins with `ppa:` is one for add-apt-repository.
    pub add_apt_repo_match: Option<String>,
}

/// A mirror.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mirror {
    /// The architectures it is for; `default` or none for all.
    pub arches: Each<String>,
    /// Its address.
    pub uri: Option<String>,
    /// Not supported: name one address with `uri`.
    pub search: Each<String>,
    /// Not supported: name one address with `uri`.
    pub search_dns: bool,
}

/// A source beside the list.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Source {
    /// Its line or its deb822 text, with $MIRROR, $SECURITY, $RELEASE and $KEY_FILE; or `ppa:…`.
    pub source: Option<String>,
    /// Its key, as armored text.
    pub key: Option<String>,
    /// The id of its key, fetched from the key server.
    pub keyid: Option<String>,
    /// The key server; keyserver.ubuntu.com without the key.
    pub keyserver: Option<String>,
    /// Its file, in /etc/apt/sources.list.d unless the path is absolute; its name without the key.
    pub filename: Option<String>,
    /// Add to a file that is there; true without the key.
    pub append: Option<bool>,
}
