//! `#cloud-boothook`: parts of the user-data that run at every boot, before anything else is done.

use std::time::Duration;

use kiln_schema::status::Stage;

use super::run::{self, Program};
use super::{NoKeys, When};
use crate::context::Context;
use crate::handlers::{Finds, Frequency, Handled, Handler};
use crate::userdata::Script;

/// Runs the boothooks.
pub struct Boothooks;

impl Handler for Boothooks {
    const NAME: &'static str = "boothooks";
    const SUMMARY: &'static str = "Runs boothooks at every boot, before anything else";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    const FINDS: Option<Finds> = Some(|_, _, scripts| scripts.iter().any(|script| script.when == When::Hook));
    /// The stage holds up the boot.
    const TIMEOUT: Duration = Duration::from_secs(120);
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        let hooks: Vec<Script> = context.scripts.iter().filter(|s| s.when == When::Hook).map(runnable).collect();
        let programs: Vec<Program> = run::install(context, "boothooks", &hooks)?;
        run::all(context, &programs, &[], Vec::new())
    }
}

/// One without a `#!` line is for the shell, as it is when a shell starts it.
fn runnable(hook: &Script) -> Script {
    let mut hook = hook.clone();
    if !hook.body.starts_with(b"#!") && !hook.body.starts_with(b"\x7fELF") {
        hook.body.splice(0..0, *b"#!/bin/sh\n");
    }
    hook
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::Outcome;
    use crate::testing::machine;

    fn hook(name: &str, body: &str) -> Script {
        Script { name: name.into(), body: body.into(), when: When::Hook, of_vendor: false }
    }

    #[test]
    fn a_hook_runs_again_and_again_with_or_without_an_interpreter() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), &["/bin/sh"], "{}") else { return };
        context.scripts = [
            hook("part-001", "#!/bin/sh\necho \"1 $INSTANCE_ID\" >> /log\n"),
            hook("part-002", "echo \"2 $0\" >> /log\n"),
        ]
        .into();
        for _ in 0..2 {
            assert!(matches!(context.run_handler::<Boothooks>(), Ok(Outcome::Ok(_))));
        }
        let line = "1 i-test\n2 /var/lib/kiln/instances/i-test/boothooks/part-002\n";
        assert_eq!(context.system.read_text("/log").unwrap(), line.repeat(2));
    }

    #[test]
    fn one_that_fails_is_told_with_its_code_and_last_line_and_the_next_runs() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), &["/bin/sh"], "{}") else { return };
        context.scripts = [hook("a", "echo why >&2\nexit 3\n"), hook("b", "echo b > /log\n")].into();
        let failure = context.run_handler::<Boothooks>().unwrap_err();
        assert_eq!(failure.message, "script `a` exited 3: why");
        assert_eq!(context.system.read_text("/log").unwrap(), "b\n");
    }
}
