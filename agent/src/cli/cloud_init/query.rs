//! `cloud-init query`: what is known of the instance.

use std::io;
use std::process::ExitCode;

use clap::ArgMatches;
use serde_json::{Map, Value as Json};

use super::super::print::say;
use super::{Entry, fail, flag, text, value};
use crate::cloud_init::data;
use crate::system::System;
use crate::template;

/// The command.
pub const COMMAND: Entry = Entry {
    name: "query",
    about: "Print what is known of the instance",
    after: "What may hold a secret is told to root alone.

Exit codes:
  0  told
  1  not known
  2  the command line cannot be understood",
    options: &[
        flag("all", 'a', "All that is known, as JSON"),
        flag("list-keys", 'l', "The names at the top, or below VARNAME"),
        value("format", 'f', "TEMPLATE", "Fill in this jinja template"),
        value("instance-data", 'i', "FILE", "Read this file in the place of the instance's own data"),
        value("user-data", 'u', "FILE", "Read this file in the place of the instance's user-data"),
        value("vendor-data", 'v', "FILE", "Read this file in the place of the instance's vendor-data"),
        value("varname", '.', "VARNAME", "What to tell, such as v1.local_hostname, ds.meta_data, userdata"),
    ],
    run,
};

/// What was asked for.
#[derive(Default)]
struct Args<'a> {
    all: bool,
    list_keys: bool,
    format: Option<&'a str>,
    instance_data: Option<&'a str>,
    user_data: Option<&'a str>,
    vendor_data: Option<&'a str>,
    varname: Option<&'a str>,
}

/// Tells what was asked for.
fn run(system: &System, matches: &ArgMatches) -> ExitCode {
    let args = Args {
        all: matches.get_flag("all"),
        list_keys: matches.get_flag("list-keys"),
        format: text(matches, "format"),
        instance_data: text(matches, "instance-data"),
        user_data: text(matches, "user-data"),
        vendor_data: text(matches, "vendor-data"),
        varname: text(matches, "varname"),
    };
    match answer(system, &args) {
        Ok(text) => {
            say(&(text + "\n"));
            ExitCode::SUCCESS
        }
        Err(sentence) => fail("query", &sentence),
    }
}

fn answer(system: &System, args: &Args<'_>) -> Result<String, String> {
    if !args.all && !args.list_keys && args.format.is_none() && args.varname.is_none() {
        return Err("say what to tell: --all, --format, --list-keys or a name".to_owned());
    }
    let known = known(system, args)?;
    if args.all {
        return Ok(pretty(&known));
    }
    let mut with_aliases = Map::clone(known.as_object().ok_or("the instance's data is no JSON object")?);
    for (name, value) in known["v1"].as_object().into_iter().flatten() {
        with_aliases.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let all = Json::Object(with_aliases);
    if let Some(format) = args.format {
        return template::fill(format, Some(&all)).map_err(|fault| format!("--format: {}", fault.message));
    }
    let found = args.varname.map_or(Ok(&all), |name| leaf(&all, name))?;
    if args.list_keys {
        let name = args.varname.unwrap_or_default();
        let fields = found.as_object().ok_or_else(|| format!("--list-keys: {name} has no names below it"))?;
        let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        return Ok(names.join("\n"));
    }
    Ok(match found {
        Json::String(text) => text.clone(),
        found => pretty(found),
    })
}

/// What this person may see.
fn known(system: &System, args: &Args<'_>) -> Result<Json, String> {
    let of_whom = match args.instance_data {
        Some(file) => system.read(file),
        None => system.read(data::SENSITIVE).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => system.read(data::PUBLIC),
            _ => Err(error),
        }),
    };
    let bytes = of_whom.map_err(|error| format!("the instance's data cannot be read: {error}"))?;
    let mut known: Json =
        serde_json::from_slice(&bytes).map_err(|error| format!("the instance's data is damaged: {error}"))?;
    if !known.is_object() {
        return Err("the instance's data is damaged: no JSON object".to_owned());
    }
    for (name, file, kept) in [
        ("userdata", args.user_data, "/var/lib/cloud/instance/user-data.txt"),
        ("vendordata", args.vendor_data, "/var/lib/cloud/instance/vendor-data.txt"),
    ] {
        if let Some(file) = file {
            let bytes = system.read(file).map_err(|error| format!("--{}-data: {error}", &name[..name.len() - 4]))?;
            known[name] = String::from_utf8_lossy(&bytes).into();
        } else if known[name] == data::REDACTED {
            known[name] = format!("<{}> file:{kept}", data::REDACTED).into();
        }
    }
    Ok(known)
}

/// Follows a name with dots; numbers are places in lists.
fn leaf<'a>(all: &'a Json, name: &str) -> Result<&'a Json, String> {
    let mut at = all;
    let mut walked = String::new();
    for part in name.split('.') {
        let below = match at {
            Json::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(part).or_else(|| other.get(part.replace('-', "_"))),
        };
        let within = if walked.is_empty() { "the instance's data" } else { &walked };
        at = below.ok_or_else(|| format!("{within} has no `{part}`; --list-keys tells what there is"))?;
        walked = if walked.is_empty() { part.to_owned() } else { format!("{walked}.{part}") };
    }
    Ok(at)
}

fn pretty(value: &Json) -> String {
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud_init;
    use crate::datasources::Instance;
    use crate::system::FileOptions;
    use serde_json::json;

    fn asked(system: &System, args: Args<'_>) -> Result<String, String> {
        answer(system, &args)
    }

    fn machine() -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let instance = Instance {
            user_data: b"#cloud-config\n{}\n".to_vec(),
            hostname: Some("web.example.org".to_owned()),
            metadata: json!({"tags": ["a", {"b": "c"}], "local-ipv4": "10.0.0.1"}),
            ..Instance::new("ec2", "i-1")
        };
        cloud_init::keep(&system, &instance);
        (tree, system)
    }

    #[test]
    fn names_lead_to_values_and_lists_and_objects_are_json() {
        let (_tree, system) = machine();
        for (name, value) in [
            ("v1.local_hostname", "web"),
            ("local_hostname", "web"),
            ("cloud-name", "aws"),
            ("ds.meta_data.local_ipv4", "10.0.0.1"),
            ("ds.meta_data.tags.1.b", "c"),
            ("ds.meta_data.tags.0", "a"),
            ("userdata", "#cloud-config\n{}\n"),
            ("sys_info.system", "Linux"),
            ("base64_encoded_keys", "[]"),
        ] {
            let told = asked(&system, Args { varname: Some(name), ..Args::default() });
            assert_eq!(told.as_deref(), Ok(value), "{name}");
        }
    }

    #[test]
    fn keys_are_listed_and_templates_filled_in() {
        let (_tree, system) = machine();
        let keys = asked(&system, Args { list_keys: true, ..Args::default() }).unwrap();
        assert!(keys.contains("ds\n") && keys.contains("v1\n") && keys.contains("local_hostname\n"), "{keys}");
        let below = asked(&system, Args { list_keys: true, varname: Some("ds.meta_data"), ..Args::default() });
        assert_eq!(below.unwrap(), "local-ipv4\nlocal_ipv4\ntags");
        let filled =
            asked(&system, Args { format: Some("{{ v1.cloud_name }}/{{ local_hostname }}"), ..Args::default() });
        assert_eq!(filled.unwrap(), "aws/web");
        let all = asked(&system, Args { all: true, ..Args::default() }).unwrap();
        assert!(serde_json::from_str::<Json>(&all).unwrap()["v1"].get("local_hostname").is_some());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let (_tree, system) = machine();
        let why = asked(&system, Args { varname: Some("ds.meta_data.nope"), ..Args::default() }).unwrap_err();
        assert_eq!(why, "ds.meta_data has no `nope`; --list-keys tells what there is");
        let why = asked(&system, Args { varname: Some("nope"), ..Args::default() }).unwrap_err();
        assert!(why.starts_with("the instance's data has no `nope`"), "{why}");
        assert!(asked(&system, Args { format: Some("{{ nope }}"), ..Args::default() }).unwrap_err().contains("nope"));
        assert!(asked(&system, Args::default()).unwrap_err().contains("--all"));
        let below = asked(&system, Args { list_keys: true, varname: Some("cloud_name"), ..Args::default() });
        assert!(below.unwrap_err().contains("cloud_name"));
    }

    #[test]
    fn damaged_or_missing_data_is_a_sentence() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(asked(&system, Args { all: true, ..Args::default() }).unwrap_err().contains("cannot be read"));
        for damaged in ["", "[]", "{", "null"] {
            system.write(data::SENSITIVE, damaged, FileOptions::default()).unwrap();
            assert!(
                asked(&system, Args { all: true, ..Args::default() }).unwrap_err().contains("damaged"),
                "{damaged}"
            );
        }
    }

    #[test]
    fn who_is_not_root_is_pointed_to_the_file() {
        let (_tree, system) = machine();
        let told =
            asked(&system, Args { instance_data: Some(data::PUBLIC), varname: Some("userdata"), ..Args::default() });
        assert_eq!(told.unwrap(), "<redacted for non-root user> file:/var/lib/cloud/instance/user-data.txt");
    }
}
