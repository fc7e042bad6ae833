//! Chef's files: its settings, its keys, the attributes of the first run.

use kiln_schema::status::Reason;
use serde_json::{Map, Value as Json, json};

use super::config::Keys;
use crate::context::Context;
use crate::handlers::Failure;
use crate::handlers::edit::put;
use crate::handlers::tools::{Steps, mode_of, put_secret};

const VALIDATION: &str = "/etc/chef/validation.pem";
const CLIENT: &str = "/etc/chef/client.pem";
const FIRST_BOOT: &str = "/etc/chef/firstboot.json";
/// Folders that Chef uses.
const FOLDERS: &[&str] =
    &["/etc/chef", "/var/log/chef", "/var/lib/chef", "/var/chef/cache", "/var/chef/backup", "/var/run/chef"];

/// The file of a key, and the key itself where it is given in place of its file.
pub struct KeyFile<'a> {
    /// Its path.
    pub path: &'a str,
    text: Option<&'a str>,
}

impl<'a> KeyFile<'a> {
    fn of(given: Option<&'a str>, usual: &'a str) -> Self {
        match given.filter(|given| !given.trim().is_empty()) {
            Some(text) if text.contains("-----BEGIN") => KeyFile { path: usual, text: Some(text) },
            given => KeyFile { path: given.unwrap_or(usual), text: None },
        }
    }

    /// That of the validation.
    pub fn of_validation(keys: &'a Keys) -> Self {
        let file = KeyFile::of(keys.validation_key.as_deref(), VALIDATION);
        let cert = keys.validation_cert.as_deref().filter(|cert| !cert.is_empty() && *cert != "system");
        KeyFile { text: file.text.or(cert), ..file }
    }
}

/// Writes everything; what changed.
pub fn write(keys: &Keys, context: &Context, steps: &mut Steps) -> Vec<String> {
    let system = &context.system;
    let mut changed = Vec::new();
    let folders: Vec<&str> = match keys.directories.as_ref() {
        [] => FOLDERS.to_vec(),
        given => given.iter().map(String::as_str).chain(["/etc/chef"]).collect(),
    };
    for folder in folders {
        steps.add("directories", system.make_dir(folder, 0o755, None).map_err(Failure::from));
    }
    let validation = KeyFile::of_validation(keys);
    let client = KeyFile::of(keys.client_key.as_deref(), CLIENT);
    // A node that has its own key needs the one for all no more, and was told to delete it.
    let is_done = keys.delete_validation_post_exec && system.exists(client.path);
    for (name, file) in [("validation_cert", &validation), ("client_key", &client)] {
        if let Some(text) = file.text.filter(|_| !(is_done && name == "validation_cert")) {
            steps.add(name, put_secret(system, file.path, text));
        }
    }
    if keys.validation_cert.as_deref() == Some("system") && !system.exists(validation.path) && !is_done {
        let message = format!("it is `system`, and there is no {}; put it into the image", validation.path);
        steps.add("validation_cert", Err(Failure::new(Reason::Config, message)));
    }
    let mut save = |name: &str, path: &str, text: Result<String, Failure>| {
        let outcome = text.and_then(|text| Ok(put(system, path, &text, mode_of(&text))?));
        if matches!(outcome, Ok(true)) {
            changed.push(path.to_owned());
        }
        steps.add(name, outcome.map(drop));
    };
    let path = keys.config_path.as_deref().unwrap_or("/etc/chef/client.rb");
    save("server_url", path, settings(keys, &validation, &client, &context.instance.id));
    let path = keys.firstboot_path.as_deref().unwrap_or(FIRST_BOOT);
    if !path.is_empty() {
        save("firstboot_path", path, first_boot(keys));
    }
    changed
}

/// The file of settings. An empty value leaves its line out.
fn settings(keys: &Keys, validation: &KeyFile, client: &KeyFile, instance: &str) -> Result<String, Failure> {
    let needed = [&keys.server_url, &keys.validation_name];
    if needed.iter().any(|value| value.as_ref().is_none_or(|value| value.is_empty())) {
        return Err(Failure::new(Reason::Config, "chef needs `server_url` and `validation_name`; give both"));
    }
    let has_validation = validation.text.is_some() || keys.validation_cert.as_deref() == Some("system");
    let given = |value: &'_ Option<String>, usual: &str| value.clone().unwrap_or_else(|| usual.to_owned());
    let lines = [
        ("chef_license", given(&keys.chef_license, "")),
        ("log_level", given(&keys.log_level, ":info")),
        ("ssl_verify_mode", given(&keys.ssl_verify_mode, ":verify_none")),
        ("log_location", given(&keys.log_location, "/var/log/chef/client.log")),
        ("validation_client_name", given(&keys.validation_name, "")),
        ("validation_key", if has_validation { validation.path.to_owned() } else { String::new() }),
        ("client_key", client.path.to_owned()),
        ("chef_server_url", given(&keys.server_url, "")),
        ("environment", given(&keys.environment, "_default")),
        ("node_name", given(&keys.node_name, instance)),
        ("json_attribs", given(&keys.json_attribs, FIRST_BOOT)),
        ("file_cache_path", given(&keys.file_cache_path, "/var/chef/cache")),
        ("file_backup_path", given(&keys.file_backup_path, "/var/chef/backup")),
        ("pid_file", given(&keys.pid_file, "/var/run/chef/client.pid")),
        (
            "Chef::Log::Formatter.show_time =",
            if keys.show_time == Some(false) { String::new() } else { "true".to_owned() },
        ),
        ("encrypted_data_bag_secret", given(&keys.encrypted_data_bag_secret, "")),
    ];
    let mut text = String::from("# Written by kiln-agent\n");
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        if value.contains(['"', '\n']) {
            return Err(Failure::new(Reason::Config, format!("{name} has a quote or a line's end in it; correct it")));
        }
        let is_ruby = matches!(*name, "log_level" | "ssl_verify_mode") || name.ends_with('=');
        let value = if is_ruby { value.clone() } else { format!("\"{value}\"") };
        text.push_str(&format!("{name:<22} {value}\n"));
    }
    Ok(text)
}

/// The attributes of the first run.
fn first_boot(keys: &Keys) -> Result<String, Failure> {
    let mut all = Map::new();
    if let Some(list) = &keys.run_list {
        all.insert("run_list".to_owned(), json!(list.0));
    }
    match &keys.initial_attributes {
        Some(Json::Object(attributes)) => all.extend(attributes.clone()),
        Some(_) => return Err(Failure::new(Reason::Config, "initial_attributes is no mapping; write it as one")),
        None => {}
    }
    Ok(Json::Object(all).to_string())
}
