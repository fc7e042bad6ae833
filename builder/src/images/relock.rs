//! Writing kiln.lock anew: what is locked already stays, unless newer bases are asked for.

use super::lock::{Lock, Locked};
use super::{From, Recipe, base, outside};
use crate::aws::{Ami, Bases};

/// What became of one base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not locked before.
    New(Locked),
    /// It is the one that was locked.
    Kept(Locked),
    /// Another one took its place.
    Moved {
        /// The one before.
        from: Locked,
        /// The one now.
        to: Locked,
    },
}

/// Locks the bases of these images at a place.
///
/// # Errors
/// When there is no base, the locked one must not be taken and no newer one is asked for, or the API does not answer.
pub async fn relock(
    api: &impl Bases,
    recipes: &[&Recipe],
    place: &str,
    update: bool,
    lock: &mut Lock,
) -> Result<Vec<(String, Change)>, base::Error> {
    let mut changes = Vec::new();
    for recipe in recipes.iter().filter(|recipe| is_outside(recipe)) {
        let before = lock.base(&recipe.label, place).cloned();
        let base: Ami = match &before {
            Some(locked) if !update => outside::locked(api, recipe, locked).await?,
            _ => outside::newest(api, recipe).await?,
        };
        let now = Locked::of(recipe, &base);
        lock.put(&recipe.label, place, now.clone());
        let change = match before {
            None => Change::New(now),
            Some(before) if before == now => Change::Kept(now),
            Some(from) => Change::Moved { from, to: now },
        };
        changes.push((recipe.label.clone(), change));
    }
    Ok(changes)
}

/// Whether its base is somebody else's, so that there is something to lock.
pub fn is_outside(recipe: &Recipe) -> bool {
    !matches!(recipe.from, From::Image(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Arch;
    use crate::images::base::tests::{DEBIAN, account, block_on, debian, recipe};

    #[test]
    fn a_base_moves_only_when_a_newer_one_is_asked_for() {
        let account = account();
        let held = account.images.borrow_mut().remove(1);
        let app = recipe(debian(DEBIAN), Arch::X86_64);
        let inner = recipe(From::Image("app".into()), Arch::X86_64);
        let mut lock = Lock::default();
        let mut run = |update| block_on(relock(&account, &[&app, &inner], "lab/x", update, &mut lock)).unwrap();
        let one = |mut changes: Vec<(String, Change)>| {
            assert_eq!((changes.len(), changes[0].0.as_str()), (1, "app"), "{changes:?}");
            changes.remove(0).1
        };
        assert!(matches!(one(run(false)), Change::New(base) if base.id == "ami-1"));
        account.images.borrow_mut().push(held);
        assert!(matches!(one(run(false)), Change::Kept(base) if base.id == "ami-1"));
        let moved = one(run(true));
        assert!(
            matches!(&moved, Change::Moved { from, to } if (from.id.as_str(), to.id.as_str()) == ("ami-1", "ami-2")),
            "{moved:?}"
        );
        assert!(matches!(one(run(true)), Change::Kept(base) if base.id == "ami-2"));
        account.images.borrow_mut().retain(|image| image.id != "ami-2");
        let mut lock_now = lock.clone();
        let error = block_on(relock(&account, &[&app], "lab/x", false, &mut lock_now)).unwrap_err().to_string();
        assert!(error.contains("is gone") && error.contains("kiln lock app --update"), "{error}");
        assert_eq!(lock_now, lock, "a refusal changes nothing");
    }
}
