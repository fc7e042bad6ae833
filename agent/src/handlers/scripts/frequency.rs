//! Scripts that run at every boot, once an instance, or once in the life of a disk: parts of the user-data of the
//! types `text/x-shellscript-per-*`, and executables in the folders `per-*` of the machine.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kiln_schema::paths;
use kiln_schema::status::Stage;

use super::run::{self, Program};
use super::{NoKeys, TIMEOUT, When};
use crate::context::Context;
use crate::handlers::{Finds, Frequency, Handled, Handler};
use crate::system::System;
use crate::userdata::Script;

/// Runs the scripts of every boot.
pub struct ScriptsPerBoot;
/// Runs the scripts of every instance.
pub struct ScriptsPerInstance;
/// Runs the scripts of the disk.
pub struct ScriptsPerOnce;

impl Handler for ScriptsPerBoot {
    const NAME: &'static str = "scripts_per_boot";
    const SUMMARY: &'static str = "Runs the scripts of every boot, in the order of names";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|system, _, scripts| finds(system, scripts, When::EveryBoot, "per-boot"));
    const TIMEOUT: Duration = TIMEOUT;
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        run(context, When::EveryBoot, "per-boot")
    }
}

impl Handler for ScriptsPerInstance {
    const NAME: &'static str = "scripts_per_instance";
    const SUMMARY: &'static str = "Runs the scripts of each instance, in the order of names";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> =
        Some(|system, _, scripts| finds(system, scripts, When::OnceAnInstance, "per-instance"));
    const TIMEOUT: Duration = TIMEOUT;
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        run(context, When::OnceAnInstance, "per-instance")
    }
}

impl Handler for ScriptsPerOnce {
    const NAME: &'static str = "scripts_per_once";
    const SUMMARY: &'static str = "Runs the scripts of the disk, in the order of names";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Once;
    const FINDS: Option<Finds> = Some(|system, _, scripts| finds(system, scripts, When::OnceADisk, "per-once"));
    const TIMEOUT: Duration = TIMEOUT;
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        run(context, When::OnceADisk, "per-once")
    }
}

fn finds(system: &System, scripts: &[Script], when: When, folder: &str) -> bool {
    scripts.iter().any(|script| script.when == when)
        || paths::SCRIPTS.iter().any(|scripts| !names(system, &format!("{scripts}/{folder}")).is_empty())
}

/// The files of a folder, sorted; hidden ones are a package's or an editor's own.
fn names(system: &System, folder: &str) -> Vec<String> {
    let is_file = |name: &String| {
        let metadata = system.metadata(format!("{folder}/{name}"));
        !name.starts_with('.') && metadata.is_ok_and(|metadata| metadata.is_file())
    };
    system.list(folder).unwrap_or_default().into_iter().filter(is_file).collect()
}

fn run(context: &Context, when: When, folder: &str) -> Handled {
    let parts: Vec<Script> = context.scripts.iter().filter(|script| script.when == when).cloned().collect();
    let mut programs = if parts.is_empty() { Vec::new() } else { run::install(context, folder, &parts)? };
    let mut unusable = Vec::new();
    for scripts in paths::SCRIPTS {
        for name in names(&context.system, &format!("{scripts}/{folder}")) {
            let path = format!("{scripts}/{folder}/{name}");
            let is_executable =
                context.system.metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
            let head = context.system.head(&path, 256).or_else(|_| context.system.read(&path))?;
            if is_executable {
                programs.push(Program { name, path, head });
            } else if head.starts_with(b"#!") {
                // A README may lie here; a script that does not run was meant to.
                unusable.push(format!("{path} is not executable and did not run; `chmod +x` it, or take it away"));
            }
        }
    }
    programs.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    run::all(context, &programs, &[], unusable)
}

#[cfg(test)]
mod tests {
    use kiln_schema::yaml::{Node, Place};

    use super::*;
    use crate::handlers::Outcome;
    use crate::testing::{executable, machine};

    fn put(system: &System, path: &str, text: &str, mode: u32) {
        executable(system, path, text);
        system.set_mode(path, mode).unwrap();
    }

    #[test]
    fn parts_and_files_of_both_folders_run_in_order_of_their_names() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), &["/bin/sh"], "{}") else { return };
        let script = |word: &str| format!("#!/bin/sh\necho {word} $INSTANCE_ID >> /log\n");
        put(&context.system, "/var/lib/cloud/scripts/per-boot/b", &script("b"), 0o755);
        put(&context.system, "/var/lib/kiln/scripts/per-boot/c", &script("c"), 0o755);
        put(&context.system, "/var/lib/kiln/scripts/per-boot/.hidden", &script("hidden"), 0o755);
        put(&context.system, "/var/lib/kiln/scripts/per-instance/other", &script("other"), 0o755);
        let part = |name: &str, when| Script { name: name.into(), body: script(name).into(), when, of_vendor: false };
        context.scripts = [part("a", When::EveryBoot), part("last", When::Last)].into();
        assert!(matches!(context.run_handler::<ScriptsPerBoot>(), Ok(Outcome::Ok(_))));
        assert_eq!(context.system.read_text("/log").unwrap(), "a i-test\nb i-test\nc i-test\n");
    }

    #[test]
    fn what_cannot_run_is_told_and_what_can_runs() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), &["/bin/sh"], "{}") else { return };
        let folder = "/var/lib/cloud/scripts/per-once";
        put(&context.system, &format!("{folder}/a"), "#!/bin/sh\necho no >&2\nexit 4\n", 0o755);
        put(&context.system, &format!("{folder}/b"), "echo no interpreter\n", 0o755);
        put(&context.system, &format!("{folder}/c"), "#!/bin/sh\n", 0o644);
        put(&context.system, &format!("{folder}/README"), "what this is for\n", 0o644);
        put(&context.system, &format!("{folder}/d"), "#!/bin/sh\necho d > /log\n", 0o700);
        let failure = context.run_handler::<ScriptsPerOnce>().unwrap_err();
        assert_eq!(failure.message, "3 of 4 scripts failed, the first: script `a` exited 4: no");
        assert_eq!(context.system.read_text("/log").unwrap(), "d\n");
    }

    #[test]
    fn it_is_a_folder_or_a_part_that_gives_work() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let part = Script { name: "a".into(), body: Vec::new(), when: When::OnceADisk, of_vendor: false };
        let nothing = Node::empty_map(Place::whole("user-data"));
        let finds = |scripts: &[Script]| ScriptsPerOnce::FINDS.is_some_and(|finds| finds(&system, &nothing, scripts));
        assert!(!finds(&[]) && finds(&[part]));
        system.make_dir("/var/lib/cloud/scripts/per-once/folder", 0o755, None).unwrap();
        assert!(!finds(&[]));
        put(&system, "/var/lib/cloud/scripts/per-once/a", "", 0o644);
        assert!(finds(&[]));
    }
}
