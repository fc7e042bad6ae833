//! `kiln-agent plan`: what user-data would run, and where each value comes from.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::paths;
use kiln_schema::status::Stage;
use kiln_schema::yaml::{self, Entry, Node, Place, Value};
use serde::Serialize;

use super::NO_INPUT;
use super::print::{Format, columns, complain, count, document, reason, say, say_json};
use crate::boot::{self, Turn};
use crate::config::{AgentKeys, Config};
use crate::datasources::Instance;
use crate::handlers::network::foreseen::{Foreseen, foresee};
use crate::handlers::{Frequency, HANDLERS};
use crate::includes::Includes;
use crate::system::System;
use crate::userdata::Fetch;

/// Arguments of `plan`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "It shows where values come from and never the values, which may be secret.

Exit codes:
  0  everything in the documents can be used
  1  something in them is an error; the plan shows what would run nevertheless
 64  the command line cannot be understood
 66  the file cannot be read, or the machine has no user-data yet")]
pub struct Args {
    /// User-data to lay over this machine's /etc/kiln; - is standard input, and without it the
    /// user-data that this machine was started with
    file: Option<PathBuf>,
    /// Print `text` for a person, or `json`, the whole plan, for a program
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// Where a value of the merged configuration stands.
#[derive(Serialize)]
struct Origin {
    /// As `puppet.conf.agent`.
    key: String,
    /// The document.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// One handler's turn.
#[derive(Serialize)]
struct Planned {
    /// From 1, over all stages.
    order: usize,
    stage: Stage,
    handler: String,
    frequency: &'static str,
    summary: String,
    values: Vec<Origin>,
    /// The keys that have their built-in value.
    built_in: Vec<&'static str>,
}

/// The whole plan.
#[derive(Serialize)]
struct Plan {
    handlers: Vec<Planned>,
    /// Of the keys that no handler owns.
    settings: Vec<Origin>,
    /// Scripts among the parts of the user-data.
    scripts: Vec<String>,
    network: Foreseen,
    /// Handlers that have nothing to do.
    idle: Vec<&'static str>,
    findings: Vec<Diagnostic>,
}

/// Prints the plan.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let instance = match instance(system, args.file.as_ref()) {
        Ok(instance) => instance,
        Err(sentence) => {
            complain(&sentence);
            return ExitCode::from(NO_INPUT);
        }
    };
    // Nobody is asked for what is included; for this machine's own user-data it is there.
    let kept = args.file.is_none().then(|| Includes::kept(system, &instance.id));
    let config = Config::load(system, &instance, kept.as_ref().map(|kept| kept as &dyn Fetch));
    let plan = plan(system, &instance, &config);
    match args.format {
        Format::Json => say_json(&plan),
        Format::Text => say(&text(&plan)),
    }
    let failed = plan.findings.iter().any(|finding| finding.severity == Severity::Error);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The instance to plan for: this machine's own, or one that has the file as its user-data.
fn instance(system: &System, file: Option<&PathBuf>) -> Result<Instance, String> {
    let Some(file) = file else {
        let own = paths::INSTANCE;
        let bytes = system.read(own).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                "this machine has no user-data yet, as no datasource has told; name a file to plan for".to_owned()
            }
            _ => format!("{own}: cannot be read: {}", reason(&error)),
        })?;
        return serde_json::from_slice(&bytes).map_err(|error| format!("{own}: not what the agent wrote: {error}"));
    };
    let (_, user_data) = document(file)?;
    Ok(Instance { user_data, ..Instance::new("file", "planned") })
}

fn plan(system: &System, instance: &Instance, config: &Config) -> Plan {
    let network = foresee(system, instance, Config::of_image(system).root.get("network").cloned());
    let mut findings = config.diagnostics.clone();
    findings.extend(config.check_handlers());
    findings.extend(config.left_out.iter().chain(&network.findings).cloned());
    config.apply_strictness(&mut findings);
    let mut handlers: Vec<Planned> = Vec::new();
    for stage in Stage::ALL {
        let turns = boot::turns(system, stage, &config.root);
        for turn in turns.into_iter().filter(|turn| turn.has_work(system, &config.root, &config.scripts)) {
            let order = handlers.len() + 1;
            handlers.push(match turn {
                // It does nothing, and is among the findings.
                Turn::NotDone(_) => continue,
                Turn::BuiltIn(entry) => Planned {
                    order,
                    stage,
                    handler: entry.name.to_owned(),
                    frequency: entry.frequency.name(),
                    summary: entry.summary.to_owned(),
                    values: origins(&config.root, |key| entry.keys().contains(&key)),
                    built_in: entry.keys().iter().copied().filter(|key| config.root.get(key).is_none()).collect(),
                },
                Turn::External(name) => Planned {
                    order,
                    stage,
                    frequency: Frequency::Instance.name(),
                    summary: format!("{}/{name}", paths::EXTERNAL_HANDLERS),
                    values: origins(&config.root, |key| key == name),
                    handler: name,
                    built_in: Vec::new(),
                },
            });
        }
    }
    let own = yaml::fields_of::<AgentKeys>();
    let is_idle = |name: &&str| !handlers.iter().any(|planned| planned.handler == *name);
    let idle = HANDLERS.iter().map(|handler| handler.name).filter(is_idle).collect();
    Plan {
        settings: origins(&config.root, |key| own.contains(&key)),
        scripts: config.scripts.iter().map(|script| script.name.clone()).collect(),
        network,
        idle,
        findings,
        handlers,
    }
}

/// Where the values below the wanted top-level keys stand.
fn origins(root: &Node, wanted: impl Fn(&str) -> bool) -> Vec<Origin> {
    let mut origins = Vec::new();
    for entry in root.entries().iter().filter(|entry| wanted(&entry.key)) {
        trace(entry, &entry.key, &mut origins);
    }
    origins
}

/// Mappings merge key by key, so each key has its own origin; a list that was merged from several
/// documents has one for each item.
fn trace(entry: &Entry, path: &str, origins: &mut Vec<Origin>) {
    match &entry.value.value {
        Value::Map(entries) if !entries.is_empty() => {
            for below in entries {
                trace(below, &format!("{path}.{}", below.key), origins);
            }
        }
        Value::List(items) if items.iter().any(|item| item.place.source != entry.place.source) => {
            for (index, item) in items.iter().enumerate() {
                origins.push(origin(format!("{path}[{index}]"), &item.place));
            }
        }
        _ => origins.push(origin(path.to_owned(), &entry.place)),
    }
}

fn origin(key: String, place: &Place) -> Origin {
    let line = (place.line > 0).then_some(place.line);
    Origin { key, source: place.source.name.clone(), line }
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let row = |origin: &Origin| {
        let line = origin.line.map_or(String::new(), |line| format!(":{line}"));
        vec![origin.key.clone(), format!("{}{line}", origin.source)]
    };
    let mut stage = None;
    for planned in &plan.handlers {
        if stage.replace(planned.stage) != Some(planned.stage) {
            text.push_str(&format!("{}\n", planned.stage.name()));
        }
        let often = often(planned.frequency);
        text.push_str(&format!("  {}. {}, {often}: {}\n", planned.order, planned.handler, planned.summary));
        let mut rows: Vec<Vec<String>> = planned.values.iter().map(row).collect();
        if !planned.built_in.is_empty() && planned.values.is_empty() {
            rows.push(vec!["(all keys)".to_owned(), "built-in".to_owned()]);
        } else {
            rows.extend(planned.built_in.iter().map(|key| vec![(*key).to_owned(), "built-in".to_owned()]));
        }
        text.push_str(&columns(&rows, "       "));
    }
    if plan.handlers.is_empty() {
        text.push_str("nothing would run\n");
    }
    if !plan.settings.is_empty() {
        text.push_str("settings\n");
        text.push_str(&columns(&plan.settings.iter().map(row).collect::<Vec<_>>(), "       "));
    }
    if !plan.scripts.is_empty() {
        text.push_str(&format!("scripts of the user-data: {}\n", plan.scripts.join(", ")));
    }
    text.push_str(&format!("network: {}{}\n", plan.network.source, written(&plan.network)));
    if !plan.idle.is_empty() {
        text.push_str(&format!("nothing to do for: {}\n", plan.idle.join(", ")));
    }
    if !plan.findings.is_empty() {
        text.push_str(&format!("\n{} in the documents:\n", count(plan.findings.len(), "finding")));
        for finding in &plan.findings {
            text.push_str(&format!("{}\n", finding.render()));
        }
    }
    text
}

/// What would be written of the network, behind where it comes from.
fn written(network: &Foreseen) -> String {
    match network.renderer {
        Some(renderer) if !network.files.is_empty() => format!(", for {renderer}: {}", network.files.join(", ")),
        _ => String::new(),
    }
}

/// A frequency in a sentence.
pub fn often(frequency: &str) -> &'static str {
    match frequency {
        "boot" => "at every boot",
        "once" => "once in the life of the disk",
        _ => "once an instance",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn each_key_of_a_merged_mapping_tells_its_own_document() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let write = |path: &str, text: &str| system.write(path, text, FileOptions::default()).unwrap();
        write(paths::AGENT_CONFIG, "kiln: {strict: false, baking: true}\nrole: base\n");
        write("/etc/kiln/agent.d/10-role.yaml", "\nrole: web\n");
        let instance =
            Instance { user_data: b"#cloud-config\nkiln:\n  strict: true\n".to_vec(), ..Instance::default() };
        let plan = plan(&system, &instance, &Config::load(&system, &instance, None));
        let told: Vec<_> =
            plan.settings.iter().map(|o| format!("{} {}:{}", o.key, o.source, o.line.unwrap_or(0))).collect();
        assert_eq!(
            told,
            ["kiln.strict user-data:3", "kiln.baking /etc/kiln/agent.yaml:1", "role /etc/kiln/agent.d/10-role.yaml:2"]
        );
    }

    #[test]
    fn an_external_handler_is_planned_where_it_runs() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/usr/lib/kiln/handlers.d/nagios", "#!/bin/sh\n", FileOptions::mode(0o755)).unwrap();
        let user_data = b"#cloud-config\nnagios:\n  server: a\n".to_vec();
        let instance = Instance { user_data, ..Instance::default() };
        let plan = plan(&system, &instance, &Config::load(&system, &instance, None));
        let last = plan.handlers.last().unwrap();
        assert_eq!((last.handler.as_str(), last.stage), ("nagios", Stage::Final));
        assert_eq!(last.values[0].key, "nagios.server");
        assert!(plan.findings.is_empty());
    }
}
