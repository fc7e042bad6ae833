//! `kiln lock`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{finish, print, run_async};
use crate::bake::Error;
use crate::bake::site::Site;
use crate::images::lock::{self, Lock, Locked};
use crate::images::relock::{Change, is_outside, relock};
use crate::images::{self, Kilnfile, Recipe, Target};

/// Arguments of `lock`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The images whose bases to lock; without any, all that are built on somebody else's image
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Take the newest bases in place of those that are locked
    #[arg(long)]
    update: bool,
    /// Where the bases are looked for; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

/// Writes kiln.lock beside kiln.yaml. Exit 0, or 1 when a base is not there or must not be taken; the file is as it
/// was then.
pub fn run(file: &Path, args: &Args) -> ExitCode {
    finish(run_async(async {
        let file = images::load(file)?;
        args.images.iter().try_for_each(|name| has_outside_base(&file, name))?;
        let target = file.target(args.target.as_deref())?;
        let recipes = chosen(&file, &args.images, target)?;
        let site = Site::open(target).await?;
        let before = file.lock.clone().unwrap_or_default();
        let mut lock = before.clone();
        let changes = relock(&site.ec2, &recipes, &site.title(), args.update, &mut lock).await?;
        let gone = if args.images.is_empty() { prune(&file, &mut lock) } else { Vec::new() };
        let path = lock::path(&file.path);
        let is_new = file.lock.is_none() || lock != before;
        if is_new {
            lock.save(&path)?;
        }
        changes.iter().for_each(|(label, change)| print(&told(label, change)));
        gone.iter().for_each(|(label, place)| print(&format!("{label}: nothing is locked for {place} any more\n")));
        let word = if is_new { "written" } else { "unchanged" };
        print(&format!("{}: {word}\n", path.display()));
        Ok(())
    }))
}

/// The images with something to lock.
fn chosen<'a>(file: &'a Kilnfile, names: &[String], target: &Target) -> Result<Vec<&'a Recipe>, Error> {
    if names.is_empty() {
        return Ok(file.images_at(target).filter(|recipe| is_outside(recipe)).collect());
    }
    Ok(file.variants_at(names, target)?)
}

fn has_outside_base(file: &Kilnfile, name: &str) -> Result<(), Error> {
    // All variants are built on the same.
    match file.variants(name)?.first().map(|recipe| &recipe.from) {
        Some(images::From::Image(base)) => Err(Error::Name(format!(
            "{name} is built on {base} of kiln.yaml, so it has no outside base to lock; `kiln bake {name}` takes the newest \
             {base}"
        ))),
        _ => Ok(()),
    }
}

/// Lets go of what kiln.yaml has no more. What is locked for another region of a target stays.
fn prune(file: &Kilnfile, lock: &mut Lock) -> Vec<(String, String)> {
    let is_image = |label: &str| file.images().any(|recipe| recipe.label == label && is_outside(recipe));
    let is_target = |place: &str| file.target(place.rsplit_once('/').map(|(target, _)| target)).is_ok();
    lock.keep_if(|label, place| is_image(label) && is_target(place))
}

fn told(label: &str, change: &Change) -> String {
    let about = |base: &Locked| format!("{} ({}), owner {}, of {}", base.name, base.id, base.owner, base.created);
    match change {
        Change::New(base) => format!("{label}: locked {}\n", about(base)),
        Change::Kept(base) => format!("{label}: kept {}\n", about(base)),
        Change::Moved { from, to } => {
            let owner = if from.owner == to.owner { "" } else { "; the OWNER is another" };
            format!(
                "{label}: moved from {}\n{:width$}  to {}{owner}\n",
                about(from),
                "",
                about(to),
                width = label.len()
            )
        }
    }
}
