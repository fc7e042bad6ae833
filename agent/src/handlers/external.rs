//! External handlers: an executable in `/usr/lib/kiln/handlers.d` owns the user-data key of its name.
//!
//! It gets `{"config": …, "instance": …}` on standard input. Exit 0 is success; a JSON object on the
//! last line of its standard output becomes the detail. They run in the final stage, once an instance.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kiln_schema::paths;
use kiln_schema::status::Reason;
use kiln_schema::yaml::Node;
use serde_json::json;

use super::{Failure, Handled, Outcome, Prepared, Runnable};
use crate::context::Context;
use crate::system::System;

/// An external handler is ended after this.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The names of the external handlers that are installed, sorted. A file that is not executable is none.
pub fn names(system: &System) -> Vec<String> {
    let executable = |name: &String| {
        let metadata = system.metadata(format!("{}/{name}", paths::EXTERNAL_HANDLERS));
        !name.starts_with('.') && metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    system.list(paths::EXTERNAL_HANDLERS).unwrap_or_default().into_iter().filter(executable).collect()
}

/// Takes the key of an external handler out of the configuration.
pub fn prepare(name: &str, config: &Node) -> Prepared {
    let value = config.get(name).map_or(serde_json::Value::Null, Node::to_json);
    let name = name.to_owned();
    let work = move |context: &mut Context| run(&name, &value, context);
    Prepared {
        diagnostics: Vec::new(),
        run: Some(Runnable { best_effort: false, timeout: TIMEOUT, work: Box::new(work) }),
    }
}

fn run(name: &str, value: &serde_json::Value, context: &mut Context) -> Handled {
    let mut instance = serde_json::to_value(&*context.instance).unwrap_or_default();
    if let Some(fields) = instance.as_object_mut() {
        // They may hold secrets of other handlers.
        for secret in ["user_data", "vendor_data", "settings"] {
            fields.remove(secret);
        }
    }
    let input = json!({"config": value, "instance": instance}).to_string();
    let program = format!("{}/{name}", paths::EXTERNAL_HANDLERS);
    let finished = context.run(&context.command(&program).input(input).capture())?;
    let text = finished.text();
    let detail =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).filter(serde_json::Value::is_object);
    if finished.success() {
        return Ok(Outcome::Ok(detail));
    }
    let lines = finished.last_lines(5);
    let said = lines.last().map_or(String::new(), |line| format!(": {line}"));
    let failure = Failure::new(Reason::CommandFailed, format!("{program} {}{said}", finished.ending()));
    Err(failure.with_detail(detail.unwrap_or_else(|| json!({"last_lines": lines}))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::Instance;

    fn install(root: &std::path::Path, name: &str, script: &str, mode: u32) {
        let path = format!("{}/{name}", paths::EXTERNAL_HANDLERS);
        let system = System::new(root);
        crate::testing::executable(&system, &path, script);
        system.set_mode(path, mode).unwrap();
    }

    #[test]
    fn only_executables_own_a_key() {
        let tree = tempfile::tempdir().unwrap();
        install(tree.path(), "nagios", "#!/bin/sh\n", 0o755);
        install(tree.path(), "README", "text", 0o644);
        install(tree.path(), ".hidden", "#!/bin/sh\n", 0o755);
        assert_eq!(names(&System::new(tree.path())), ["nagios"]);
    }

    #[test]
    fn a_program_learns_of_the_instance_and_of_no_secret() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = crate::testing::machine(tree.path(), &["/usr/bin/dash"], "own: {a: 1}") else { return };
        install(tree.path(), "own", "#!/usr/bin/dash\nread -r line\nprintf %s \"$line\" >/got\n", 0o755);
        context.instance = std::sync::Arc::new(Instance {
            user_data: b"hunter2".to_vec(),
            vendor_data: b"hunter2".to_vec(),
            settings: json!({"default_user": {"plain_text_passwd": "hunter2"}}),
            ..Instance::new("azure", "i-1")
        });
        run("own", &json!({"a": 1}), &mut context).unwrap();
        let got: serde_json::Value = serde_json::from_str(&context.system.read_text("/got").unwrap()).unwrap();
        assert_eq!((&got["config"]["a"], &got["instance"]["id"]), (&json!(1), &json!("i-1")));
        for secret in ["user_data", "vendor_data", "settings"] {
            assert_eq!(got["instance"].get(secret), None, "{secret}");
        }
    }
}
