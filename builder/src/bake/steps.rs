//! What happens on the instance, as scripts for its shell.
//!
//! The scripts lie in `steps/` as they run. What differs between images reaches them by files of the
//! payload: `bake.env`, `files.list`, `provision.list`.

use std::time::Duration;

use crate::images::Recipe;
use crate::packer::template::{Machine, Provisioner, files};

const COMMON: &str = include_str!("steps/common.sh");

/// Where the payload lands, and where the report is fetched.
pub const PAYLOAD: &str = "/tmp/kiln-payload.tar";
pub const REPORT: &str = "/tmp/kiln-report.tar.gz";

/// How long an installation, or all scripts together, may take.
const WORK: Duration = Duration::from_secs(3600);
/// How long a step without work of its own may take.
const SHORT: Duration = Duration::from_secs(600);
/// The gate waits for the agent, then runs each test file within the same limit: this is for many of them.
const TESTS: Duration = Duration::from_secs(1800);

/// The scripts in the order they run: file name and what the step does.
const SCRIPTS: [(&str, &str); 6] = [
    ("install.sh", include_str!("steps/install.sh")),
    ("provision.sh", include_str!("steps/provision.sh")),
    ("gate.sh", include_str!("steps/gate.sh")),
    ("verdict.sh", include_str!("steps/verdict.sh")),
    ("seal.sh", include_str!("steps/seal.sh")),
    ("bundle.sh", include_str!("steps/bundle.sh")),
];

/// Every script by its name, whole.
pub fn scripts() -> impl Iterator<Item = (&'static str, String)> {
    SCRIPTS.iter().map(|(name, step)| (*name, format!("{COMMON}{step}")))
}

/// The steps that come before an image is made of the machine, each with its text and how long it may take.
pub fn until_the_gate(recipe: &Recipe, provision: bool) -> Vec<(String, Duration)> {
    let wanted = [("install.sh", true, WORK), ("provision.sh", provision, WORK), ("gate.sh", true, gate_time(recipe))];
    let text = |name: &str| scripts().find(|(script, _)| *script == name).map(|(_, text)| text);
    let wanted = wanted.into_iter().filter(|(_, wanted, _)| *wanted);
    wanted.filter_map(|(name, _, time)| Some((text(name)?, time))).collect()
}

fn gate_time(recipe: &Recipe) -> Duration {
    recipe.gate_timeout + TESTS
}

/// The provisioners of a bake, in order.
pub fn provisioners(machine: &Machine, recipe: &Recipe) -> Vec<Provisioner> {
    let script = |name: &str, timeout| machine.root_script(name, timeout);
    let mut steps = vec![
        Provisioner::File { source: files::PAYLOAD.into(), destination: PAYLOAD.into(), direction: "upload" },
        script("install.sh", WORK),
        script("provision.sh", WORK),
        script("gate.sh", gate_time(recipe)),
        Provisioner::File { source: REPORT.into(), destination: files::REPORT.into(), direction: "download" },
        script("verdict.sh", SHORT),
        script("seal.sh", SHORT),
    ];
    if machine.bundle.is_some() {
        steps.push(script("bundle.sh", SHORT));
    }
    steps
}

/// Variables for the scripts.
pub fn environment(recipe: &Recipe) -> String {
    let variables = [
        ("KILN_IMAGE", recipe.name.clone()),
        ("KILN_ROLE", recipe.role.clone().unwrap_or_default()),
        ("KILN_LAYER", recipe.layer.name().to_owned()),
        ("KILN_STORE", recipe.store.name().to_owned()),
        ("KILN_GATE_TIMEOUT", format!("{}s", recipe.gate_timeout.as_secs())),
        ("KILN_SEAL", seal_options(recipe)),
    ];
    variables.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect()
}

/// What the seal is told to let pass, as the agent's own options. No word of it has a blank.
pub fn seal_options(recipe: &Recipe) -> String {
    let given = [("--skip", &recipe.seal.skip), ("--permit", &recipe.seal.permit)];
    let words = given
        .iter()
        .filter(|(_, allowed)| !allowed.is_empty())
        .flat_map(|(option, allowed)| std::iter::once(*option).chain(allowed.keys().map(String::as_str)));
    words.collect::<Vec<_>>().join(" ")
}

/// A word that the shell takes as it is.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::names::tests::recipe;

    #[test]
    fn a_role_with_a_quote_stays_one_word() {
        let recipe = Recipe { role: Some("it's $(x)".into()), ..recipe() };
        assert_eq!(
            environment(&recipe),
            "KILN_IMAGE='myapp'\nKILN_ROLE='it'\\''s $(x)'\nKILN_LAYER='app'\nKILN_STORE='ebs'\nKILN_GATE_TIMEOUT='600s'\nKILN_SEAL=''\n"
        );
    }

    #[test]
    fn the_shell_understands_every_script() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in scripts() {
            let path = folder.path().join(name);
            crate::system::files::write(&path, text.as_bytes(), 0o600).unwrap();
            let answer = crate::system::tools::Tool::new("sh").arg("-n").arg(&path).capture().unwrap();
            assert!(answer.status.success(), "{name}: {}", String::from_utf8_lossy(&answer.stderr));
        }
    }
}
