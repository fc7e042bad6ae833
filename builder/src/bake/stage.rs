//! Lays out the folder that packer runs in: template, user-data, scripts, and the payload.

use std::fs;
use std::path::Path;

use super::plan::Plan;
use super::{Error, steps};
use crate::gate::render;
use crate::images::Recipe;
use crate::packer::template::files as names;
use crate::system::files;
use crate::system::tools::Tool;

/// Fills the folder. What may hold a secret is for its owner alone.
///
/// # Errors
/// When a file cannot be read or written, or two tests have one name.
pub fn stage(plan: &Plan, folder: &Path) -> Result<(), Error> {
    let at = |name: &str| folder.join(name);
    let write = |name: &str, text: &str, mode| {
        files::write(&at(name), text.as_bytes(), mode).map_err(|error| Error::file(at(name).display(), error))
    };
    write(names::TEMPLATE, &plan.template_json(), 0o644)?;
    write(names::USER_DATA, &plan.documents.user_data, 0o600)?;
    for (name, text) in steps::scripts() {
        write(name, &text, 0o755)?;
    }
    let payload = at("payload");
    files::make_dir(&payload).map_err(|error| Error::file(payload.display(), error))?;
    write("payload/bake.env", &steps::environment(&plan.recipe), 0o644)?;
    write("payload/50-image.yaml", &plan.documents.image, 0o644)?;
    if let Some(bake) = &plan.documents.bake {
        write("payload/90-bake.yaml", bake, 0o600)?;
    }
    if let Some(deb) = &plan.agent_deb {
        copy(deb, &payload.join("kiln-agent.deb"))?;
    }
    write("payload/files.list", &place_files(&plan.recipe, &payload)?, 0o644)?;
    write("payload/provision.list", &place_scripts(&plan.recipe, &payload)?, 0o644)?;
    place_tests(&plan.recipe, &payload)?;
    pack(&payload, &at(names::PAYLOAD))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    // The error names the file, because a folder can hold many.
    files::copy_tree(from, to).map_err(|error| Error::file("cannot copy what the image gets", error))
}

/// Copies the files to numbers, and lists `number TAB destination`.
fn place_files(recipe: &Recipe, payload: &Path) -> Result<String, Error> {
    let mut list = String::new();
    for (number, file) in recipe.files.iter().enumerate() {
        copy(&file.source.path, &payload.join(format!("files/{number}")))?;
        let mut destination = file.destination.clone();
        if destination.ends_with('/') && file.source.path.is_file() {
            destination += &file.source.path.file_name().unwrap_or_default().to_string_lossy();
        }
        list += &format!("{number}\t{destination}\n");
    }
    Ok(list)
}

/// Copies the scripts, executable, and lists `name TAB name in kiln.yaml`.
fn place_scripts(recipe: &Recipe, payload: &Path) -> Result<String, Error> {
    let mut list = String::new();
    let folder = payload.join("provision");
    files::make_dir(&folder).map_err(|error| Error::file(folder.display(), error))?;
    for (number, script) in recipe.provision.iter().enumerate() {
        let content = fs::read(&script.path).map_err(|error| Error::file(script.path.display(), error))?;
        let name = format!("{number:02}");
        files::write(&folder.join(&name), &content, 0o755).map_err(|error| Error::file(folder.display(), error))?;
        list += &format!("{name}\t{}\n", script.given);
    }
    Ok(list)
}

/// Puts the library and the checks into one folder, and copies test files and the content of folders of them
/// beside these.
fn place_tests(recipe: &Recipe, payload: &Path) -> Result<(), Error> {
    let folder = payload.join("tests");
    if recipe.tests.is_empty() && recipe.checks.is_empty() {
        return Ok(());
    }
    let write = |name: &str, text: &str| {
        files::write(&folder.join(name), text.as_bytes(), 0o644).map_err(|error| Error::file(folder.display(), error))
    };
    files::make_dir(&folder).map_err(|error| Error::file(folder.display(), error))?;
    write(render::LIBRARY_NAME, render::LIBRARY)?;
    if !recipe.checks.is_empty() {
        write(render::CHECKS_NAME, &render::bats(&recipe.checks))?;
    }
    for test in &recipe.tests {
        let mut found = vec![test.path.clone()];
        if test.path.is_dir() {
            let entries = fs::read_dir(&test.path).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
            found = entries.map_err(|error| Error::file(test.path.display(), error))?;
        }
        for path in found {
            let name = path.file_name().unwrap_or_default();
            // Whoever runs the tests by hand has the library beside them.
            if name == render::LIBRARY_NAME && fs::read(&path).is_ok_and(|own| own == render::LIBRARY.as_bytes()) {
                continue;
            }
            if folder.join(name).exists() {
                return Err(Error::TwoTests { image: recipe.name.clone(), name: name.to_string_lossy().into_owned() });
            }
            copy(&path, &folder.join(name))?;
        }
    }
    Ok(())
}

/// One archive, because one upload is quicker than many and keeps modes and links.
fn pack(payload: &Path, archive: &Path) -> Result<(), Error> {
    let tar = Tool::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(payload)
        .arg(".");
    let answer = tar.capture().map_err(|error| Error::file("cannot run tar", error))?;
    if answer.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    Err(Error::file("cannot pack what the image gets", std::io::Error::other(said)))
}
