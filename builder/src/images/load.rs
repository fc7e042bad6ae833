//! From the text of kiln.yaml to [`Kilnfile`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Node};

use super::check::Checker;
use super::checks;
use super::types::{Defaults, File, Image};
use super::variants::Variants;
use super::{Arch, Error, GATE_TIMEOUT, Input, Kilnfile, PlacedFile, Recipe, Store, lock};
use crate::packer::scrub::Scrubber;

/// Reads and checks kiln.yaml.
///
/// # Errors
/// When it cannot be read, and with every finding at its place: an unknown key is an error here.
pub fn load(path: &Path) -> Result<Kilnfile, Error> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoFile(path.to_owned()),
        _ => Error::Unreadable { path: path.to_owned(), error },
    })?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let lock = lock::load(&lock::path(path))?;
    parse(path, &folder, &text).map(|file| Kilnfile { lock, ..file })
}

fn parse(path: &Path, folder: &Path, text: &str) -> Result<Kilnfile, Error> {
    let (root, mut findings) = yaml::parse(&path.display().to_string(), text).map_err(|mut finding| {
        // Where it is no YAML, nobody can tell which part of a line is the value of a password.
        finding.excerpt = finding.excerpt.filter(|_| !text.contains("user_data"));
        Error::Findings(vec![*finding])
    })?;
    let checked = yaml::read::<File>(&root, "");
    findings.extend(checked.diagnostics);
    let Some(file) = checked.value.filter(|_| findings.is_empty()) else {
        return Err(Error::Findings(
            findings.into_iter().map(harden).map(|finding| without_secrets(finding, &root)).collect(),
        ));
    };

    let mut checker = Checker::new(&root, folder);
    checker.check(&file);
    let targets = checker.targets(&file);
    if !checker.findings.is_empty() {
        let findings = checker.findings.into_iter().map(|finding| without_secrets(finding, &root));
        return Err(Error::Findings(findings.collect()));
    }
    let images: IndexMap<_, _> = file
        .images
        .into_iter()
        .flat_map(|(name, image)| {
            let user_data = root.get("images").and_then(|images| images.get(&name)?.get("user_data")).cloned();
            let (of, recipe) =
                (Variants::of(&image, &file.defaults), recipe(&name, image, &file.defaults, user_data, folder));
            of.expand(&recipe)
        })
        .map(|recipe| (recipe.label.clone(), recipe))
        .collect();
    Ok(Kilnfile {
        path: path.to_owned(),
        folder: folder.to_owned(),
        images,
        targets,
        default_target: file.defaults.target,
        lock: None,
    })
}

/// The line that a finding quotes may hold a password beside the mistake, and is printed into the logs of CI.
fn without_secrets(mut finding: Diagnostic, root: &Node) -> Diagnostic {
    let scrubber = Scrubber::default().and_user_data(Some(root));
    finding.excerpt = finding.excerpt.map(|line| scrubber.clean(&line));
    finding
}

/// A document of user-data is forgiven what nobody knows; this file is the project's own.
pub(super) fn harden(mut finding: Diagnostic) -> Diagnostic {
    finding.severity = Severity::Error;
    finding
}

/// What all variants have in common.
fn recipe(name: &str, image: Image, defaults: &Defaults, user_data: Option<Node>, folder: &Path) -> Recipe {
    let input = |given: String| Input { path: folder.join(&given), given };
    Recipe {
        name: name.to_owned(),
        label: name.to_owned(),
        layer: image.layer,
        from: image.from,
        role: image.role,
        version: image.version.unwrap_or_else(|| "0".to_owned()),
        build: image.build.unwrap_or_else(|| "0".to_owned()),
        release: image.release,
        environment: image.environment.or_else(|| defaults.environment.clone()).unwrap_or_else(|| "test".to_owned()),
        owner: image.owner.or_else(|| defaults.owner.clone()),
        store: Store::default(),
        arch: Arch::default(),
        ssh_username: image
            .ssh_username
            .or_else(|| defaults.ssh_username.clone())
            .unwrap_or_else(|| "admin".to_owned()),
        instance_type: None,
        gate_timeout: image.gate_timeout.or(defaults.gate_timeout).map_or(GATE_TIMEOUT, |timeout| timeout.0),
        bake_timeout: image.bake_timeout.or(defaults.bake_timeout).map(|timeout| timeout.0),
        provision: image.provision.into_iter().map(input).collect(),
        files: image
            .files
            .into_iter()
            .map(|file| PlacedFile { source: input(file.source), destination: file.destination })
            .collect(),
        tests: image.tests.into_iter().map(input).collect(),
        // Those that cannot be made have been reported.
        checks: image.checks.iter().filter_map(|keys| checks::assertions(keys).ok()).flatten().collect(),
        user_data: user_data.filter(|node| !node.is_null()),
        seal: image.seal,
        prove: image.prove.or(defaults.prove).unwrap_or(true),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
pub(crate) mod tests;
