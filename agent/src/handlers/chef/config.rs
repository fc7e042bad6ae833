//! The keys of Chef.

use kiln_schema::yaml::Each;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

/// Keys of the handler.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// A client of Chef.
    pub chef: Option<Keys>,
}

/// A client of Chef.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keys {
    /// How it is installed where it lacks: `packages`, as without the key, `gems` or `omnibus`.
    pub install_type: Option<String>,
    /// Install it also where it is there.
    pub force_install: bool,
    /// Run it; false without the key, or true where it was just installed from gems.
    pub exec: Option<bool>,
    /// Its arguments; -d -i 1800 -s 20 without the key, which leave it running.
    pub exec_arguments: Option<Each<String>>,
    /// Remove the validation's key after a run.
    pub delete_validation_post_exec: bool,
    /// Folders to make; those that Chef uses without the key.
    pub directories: Each<String>,
    /// Its settings' file; /etc/chef/client.rb without the key.
    pub config_path: Option<String>,
    /// The server; needed.
    pub server_url: Option<String>,
    /// The name of the validation's client; needed.
    pub validation_name: Option<String>,
    /// The validation's key, for the file `validation_key`. `system`: it is there already.
    pub validation_cert: Option<String>,
    /// The file of the validation's key, /etc/chef/validation.pem without the key; or the key itself.
    pub validation_key: Option<String>,
    /// The file of the client's key, /etc/chef/client.pem without the key; or the key itself.
    pub client_key: Option<String>,
    /// The file of the secret of encrypted data bags.
    pub encrypted_data_bag_secret: Option<String>,
    /// Whether Chef's licence is accepted: `accept`, `accept-silent` or `accept-no-persist`.
    pub chef_license: Option<String>,
    /// The node's name; the instance's id without the key.
    pub node_name: Option<String>,
    /// The environment; _default without the key.
    pub environment: Option<String>,
    /// How much is logged; :info without the key.
    pub log_level: Option<String>,
    /// The log; /var/log/chef/client.log without the key.
    pub log_location: Option<String>,
    /// Whether the server's certificate is checked: `:verify_none`, as without the key, or `:verify_peer`.
    pub ssl_verify_mode: Option<String>,
    /// The file with the first run's attributes; /etc/chef/firstboot.json without the key.
    pub json_attribs: Option<String>,
    /// The cache; /var/chef/cache without the key.
    pub file_cache_path: Option<String>,
    /// Where files are kept before Chef changes them; /var/chef/backup without the key.
    pub file_backup_path: Option<String>,
    /// The file of the process's id; /var/run/chef/client.pid without the key.
    pub pid_file: Option<String>,
    /// Times in the log; true without the key.
    pub show_time: Option<bool>,
    /// Where the first run's attributes are written, /etc/chef/firstboot.json without the key; nowhere if it is empty.
    pub firstboot_path: Option<String>,
    /// Recipes and roles of the first run.
    pub run_list: Option<Each<String>>,
    /// Attributes of the first run.
    pub initial_attributes: Option<Json>,
    /// The script that installs Chef's own packages; https://www.chef.io/chef/install.sh without the key.
    pub omnibus_url: Option<String>,
    /// How often it is asked for again; 5 without the key.
    pub omnibus_url_retries: Option<u32>,
    /// The version that this script installs; the newest without the key.
    pub omnibus_version: Option<String>,
    /// The version of the gem; the newest without the key.
    pub version: Option<String>,
    /// The version of ruby for gems; the distribution's own without the key.
    pub ruby_version: Option<String>,
}
