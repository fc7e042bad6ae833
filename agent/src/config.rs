//! The configuration of a boot: every document, the higher rank over the lower.

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::paths;
use kiln_schema::yaml::{self, Node, Place};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cloud_init::settings;
use crate::datasources::Instance;
use crate::handlers::{self, external};
use crate::instance_data;
use crate::system::System;
use crate::userdata::{self, Fetch, Script, Surroundings, UserData};

/// The agent's own settings, under the key `kiln`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Unknown keys are errors. Bakes set it.
    pub strict: bool,
    /// An image is being baked: handlers that act on the outside world keep still.
    pub baking: bool,
    /// Test files on the instance, and folders of them, that `kiln-agent gate` runs beside those of its command
    /// line: `.bats` files and executables that print TAP.
    pub tests: Vec<String>,
}

/// Keys that no handler owns.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AgentKeys {
    /// The agent's own settings.
    pub kiln: Settings,
    /// The datasources to ask, in this order, without detection.
    #[serde(alias = "datasource_list")]
    pub datasource: Option<Vec<String>>,
    /// What the instance is for; reaches puppet as a fact and templates as a variable.
    pub role: Option<String>,
}

/// All that a boot is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every document merged.
    pub root: Node,
    /// The keys that no handler owns.
    pub agent: AgentKeys,
    /// Scripts of the user-data, and before them of the vendor-data.
    pub scripts: Vec<Script>,
    /// What is wrong with the documents.
    pub diagnostics: Vec<Diagnostic>,
    /// What of cloud-init's own settings does not count; told by `plan` and `validate` alone.
    pub left_out: Vec<Diagnostic>,
}

/// The agent's own files, and what ranks below them: all that holds whatever the instance is.
#[derive(Clone, Debug)]
pub struct OwnFiles {
    /// Every file merged.
    pub root: Node,
    /// Keys that external handlers own.
    external: Vec<String>,
    diagnostics: Vec<Diagnostic>,
    left_out: Vec<Diagnostic>,
}

impl OwnFiles {
    /// Reads them.
    pub fn read(system: &System) -> Self {
        let of_cloud_init = settings::read(system);
        let mut diagnostics = of_cloud_init.errors;
        let root = files(system, of_cloud_init.root, &mut diagnostics);
        OwnFiles { root, external: external::names(system), diagnostics, left_out: of_cloud_init.left_out }
    }

    /// The datasources to ask without detection.
    pub fn datasources(&self) -> Option<Vec<String>> {
        yaml::read::<AgentKeys>(&self.root, "").value?.datasource
    }
}

impl Config {
    /// Reads the agent's files and the instance's documents, and checks every key.
    ///
    /// Rank, highest first: user-data, vendor-data, the settings of the source, `/etc/kiln/agent.d/*.yaml`
    /// (a later name wins), `/etc/kiln/agent.yaml`, and in cloud-init's place its own settings.
    ///
    /// Documents that these include are got by the fetcher; without one they are left out.
    pub fn load(system: &System, instance: &Instance, fetcher: Option<&dyn Fetch>) -> Self {
        Self::over(OwnFiles::read(system), system, instance, fetcher)
    }

    /// The same, where the agent's files have been read already.
    pub fn over(own: OwnFiles, system: &System, instance: &Instance, fetcher: Option<&dyn Fetch>) -> Self {
        let OwnFiles { root: files, external, mut diagnostics, left_out } = own;
        let variables = || instance_data::variables(system, instance);
        let surroundings = Surroundings { variables: Some(&variables), launch_index: instance.launch_index, fetcher };
        let user_data = userdata::parse("user-data", &instance.user_data, &surroundings);
        let mut vendor_data = if refuses_vendor_data(&user_data.config).or(refuses_vendor_data(&files)) == Some(true) {
            UserData::empty("vendor-data")
        } else {
            userdata::parse("vendor-data", &instance.vendor_data, &surroundings)
        };
        for script in &mut vendor_data.scripts {
            script.of_vendor = true;
        }
        let settings = Node::from_json(&instance.settings, &Place::whole("datasource"));
        let files = if settings.is_null() { files } else { userdata::layer(settings, files) };
        let root = userdata::layer(user_data.config, userdata::layer(vendor_data.config, files));
        let scripts = vendor_data.scripts.into_iter().chain(user_data.scripts).collect();
        diagnostics.extend(vendor_data.diagnostics);
        diagnostics.extend(user_data.diagnostics);
        diagnostics.extend(instance.findings.iter().cloned());
        let mut config = Config { root, agent: AgentKeys::default(), scripts, diagnostics, left_out };
        config.check(&external);
        config
    }

    /// The agent's own files alone, for what must be known before there is an instance.
    pub fn of_image(system: &System) -> Self {
        Self::load(system, &Instance::default(), None)
    }

    /// What holds for the instance as its source has described it at this boot.
    pub fn of_instance(system: &System) -> Self {
        let known = system.read(paths::INSTANCE).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self::load(system, &known.unwrap_or_default(), None)
    }

    /// Reads the keys that no handler owns and reports the keys that nobody knows.
    pub fn check(&mut self, external: &[String]) {
        let own = yaml::fields_of::<AgentKeys>();
        let mut named = handlers::known_keys();
        named.extend(own);
        named.extend(external.iter().map(String::as_str));
        let mut known = Node::empty_map(self.root.place.clone());
        for entry in self.root.entries() {
            if own.contains(&entry.key.as_str()) {
                if let yaml::Value::Map(entries) = &mut known.value {
                    entries.push(entry.clone());
                }
                continue;
            }
            if named.contains(&entry.key.as_str()) {
                continue;
            }
            if let Some(not_done) = handlers::not_done::find(&entry.key) {
                self.diagnostics.extend(not_done.finding(entry));
                continue;
            }
            let mut finding = entry.place.diagnostic(Severity::Warning, &entry.key, "unknown key");
            finding.suggestion = nearest(&entry.key, named.iter().copied());
            self.diagnostics.push(finding);
        }
        let checked = yaml::read::<AgentKeys>(&known, "");
        self.agent = checked.value.unwrap_or_default();
        self.diagnostics.extend(checked.diagnostics);
    }

    /// Reads the part of every handler, so that all findings are known before anything runs.
    pub fn check_handlers(&self) -> Vec<Diagnostic> {
        let configured = handlers::HANDLERS.iter().filter(|handler| handler.is_configured(&self.root));
        let mut findings: Vec<Diagnostic> = handlers::check::empties(&self.root);
        for finding in configured.flat_map(|handler| handler.prepare(&self.root).diagnostics) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        findings
    }

    /// Under `strict`, an unknown key is an error.
    pub fn apply_strictness(&self, findings: &mut [Diagnostic]) {
        if self.agent.kiln.strict {
            for finding in findings.iter_mut().filter(|f| f.message == "unknown key") {
                finding.severity = Severity::Error;
            }
        }
    }
}

/// Whether a document says `vendor_data: {enabled: false}`, also spelled as text; none if it says nothing.
fn refuses_vendor_data(document: &Node) -> Option<bool> {
    match &document.get("vendor_data")?.get("enabled")?.value {
        yaml::Value::Scalar(enabled) => yaml::scalar::boolean(&enabled.text).map(|enabled| !enabled),
        _ => None,
    }
}

/// The agent's files, merged, over what ranks below them.
fn files(system: &System, below: Option<Node>, diagnostics: &mut Vec<Diagnostic>) -> Node {
    let dropins = system.list(paths::AGENT_CONFIG_DROPINS).unwrap_or_default();
    let dropins = dropins.into_iter().filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
    let dropins = dropins.map(|name| format!("{}/{name}", paths::AGENT_CONFIG_DROPINS));
    let mut merged = below.unwrap_or_else(|| Node::empty_map(Place::whole(paths::AGENT_CONFIG)));
    for path in std::iter::once(paths::AGENT_CONFIG.to_owned()).chain(dropins) {
        let text = match system.read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                diagnostics.push(Diagnostic::error(path, format!("cannot be read: {error}")));
                continue;
            }
        };
        match yaml::parse(&path, &text) {
            Ok((node, warnings)) => {
                diagnostics.extend(warnings);
                // Of comments alone it is none, and not the value that takes away what is below.
                if !node.is_null() {
                    merged = userdata::layer(node, merged);
                }
            }
            Err(finding) => diagnostics.push(*finding),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn the_tests_of_a_bake_are_those_of_its_user_data() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert_eq!(Config::of_instance(&system).agent.kiln.tests, Vec::<String>::new());
        let mut instance = Instance::new("ec2", "i-1");
        instance.user_data = b"#cloud-config\nkiln: {baking: true, tests: [/usr/share/app/tests]}\n".to_vec();
        let text = serde_json::to_vec(&instance).unwrap();
        system.write(paths::INSTANCE, text, FileOptions::mode(0o600)).unwrap();
        assert_eq!(Config::of_instance(&system).agent.kiln.tests, ["/usr/share/app/tests"]);
    }
}
