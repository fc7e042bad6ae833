//! The keys of Ansible.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kiln_schema::yaml::{self, Each, Texts};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// Keys of Ansible.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Playbooks of Ansible.
    pub ansible: Option<Keys>,
}

/// Playbooks of Ansible.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keys {
    /// How it is installed where it lacks: `distro`, as without the key, or `pip`.
    pub install_method: Option<String>,
    /// The package; ansible without the key.
    pub package_name: Option<String>,
    /// The user who runs everything, and for whom pip installs; root without the key.
    pub run_user: Option<String>,
    /// The file of Ansible's settings, for ANSIBLE_CONFIG.
    pub ansible_config: Option<String>,
    /// Commands of ansible-galaxy that are run before the playbooks.
    pub galaxy: Galaxy,
    /// What ansible-pull gets and runs: `url`, `playbook_names` (or `playbook_name`), and its options by their names,
    /// such as `checkout` or `vault_password_file`. A name and a password in the address reach git alone.
    #[serde(deserialize_with = "yaml::tolerant")]
    pub pull: Each<BTreeMap<String, Values>>,
    /// Repositories and playbooks of a controller.
    pub setup_controller: Controller,
}

/// Commands of ansible-galaxy.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Galaxy {
    /// The commands, each a list of a program and its arguments.
    pub actions: Each<Vec<String>>,
}

/// Repositories and playbooks of a controller.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Controller {
    /// Repositories of git; one that is there already is left as it is.
    pub repositories: Each<Repository>,
    /// Playbooks, each with `playbook_name`, the folder `playbook_dir`, and options of ansible-playbook by their names.
    pub run_ansible: Each<BTreeMap<String, Values>>,
}

/// A repository of git.
#[derive(Deserialize, JsonSchema)]
pub struct Repository {
    /// The folder that it is cloned to.
    pub path: String,
    /// Its address.
    pub source: String,
}

/// The values of an option; one stands for a list of one. `true` is the option alone, and `false` leaves it out.
#[derive(Default)]
pub struct Values(pub Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Texts::deserialize(deserializer).map(|texts| Values(texts.0))
    }
}

impl JsonSchema for Values {
    fn schema_name() -> Cow<'static, str> {
        "Values".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean", "null", "array"],
            "items": {"type": ["string", "number", "boolean"]}})
    }
}
