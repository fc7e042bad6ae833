//! What moved: locked bases that there are newer ones of, and images whose base is not the newest of its line.

use std::collections::HashMap;

use super::base::{self, Error};
use super::graph::Graph;
use super::lock::{Lock, Locked};
use super::{Recipe, outside, relock};
use crate::aws::{Ami, Bases};

/// How a base or an image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is the newest, or is built on what a bake would take.
    Current,
    /// The base is not locked, so that a bake takes the newest.
    Unlocked,
    /// There is a newer base than the locked one.
    Moved,
    /// No base can be taken, and why.
    Refused(String),
    /// The image was not baked yet.
    Missing,
    /// The image is built on something else than a bake would take.
    Stale,
    /// The image is built on the newest of its parent, which is out of date itself.
    Behind(String),
}

impl State {
    /// The word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            State::Current => "current",
            State::Unlocked => "unlocked",
            State::Moved => "moved",
            State::Refused(_) => "refused",
            State::Missing => "missing",
            State::Stale => "stale",
            State::Behind(_) => "behind",
        }
    }

    /// Whether there is something to do.
    pub fn is_outdated(&self) -> bool {
        matches!(self, State::Moved | State::Refused(_) | State::Stale | State::Behind(_))
    }
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The lock on the base of an image.
    Base,
    /// The newest image that was baked.
    Image,
}

/// One base or image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The image in kiln.yaml.
    pub image: String,
    /// Which of its two sides.
    pub what: What,
    /// How it stands.
    pub state: State,
    /// Id and name of what is locked, or of what the image is built on.
    pub has: Option<(String, String)>,
    /// Id and name of what there is now.
    pub newest: Option<(String, String)>,
}

impl Row {
    /// The row in words; none where nothing is to be said.
    pub fn why(&self) -> Option<String> {
        let named = |it: &Option<(String, String)>| match it {
            Some((id, name)) => format!("{name} ({id})"),
            None => "nothing".to_owned(),
        };
        let (has, newest) = (named(&self.has), named(&self.newest));
        match &self.state {
            State::Current | State::Unlocked | State::Missing => None,
            State::Moved => Some(format!("{has} is locked, {newest} is newer")),
            State::Refused(why) => Some(why.clone()),
            State::Stale => Some(format!("built on {has}, a bake takes {newest}")),
            State::Behind(parent) => Some(format!("built on {parent}, which is out of date itself")),
        }
    }

    /// The command that helps.
    pub fn remedy(&self) -> Option<String> {
        match &self.state {
            State::Moved => Some(format!("kiln lock {} --update", self.image)),
            State::Stale => Some(format!("kiln bake {}", self.image)),
            State::Behind(parent) => Some(format!("kiln bake {parent} {}", self.image)),
            State::Current | State::Unlocked | State::Missing | State::Refused(_) => None,
        }
    }
}

/// Looks at every image of the graph, parents first.
///
/// # Errors
/// When the API does not answer.
pub async fn look(api: &impl Bases, graph: &Graph<'_>, lock: Option<&Lock>, place: &str) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    // Of every image: its newest one, and whether that is out of date.
    let mut seen: HashMap<&str, (Option<Ami>, bool)> = HashMap::new();
    for recipe in graph.parents_first() {
        let parent = graph.parent(recipe);
        let (base, behind) = match parent {
            Some(parent) => seen.get(parent.label.as_str()).cloned().unwrap_or_default(),
            None => {
                let locked = lock.and_then(|lock| lock.base(&recipe.label, place));
                let (base, row) = outside_base(api, recipe, locked).await?;
                rows.push(row);
                (base, false)
            }
        };
        let image = base::latest(api, recipe).await?;
        let state = match (&image, &base, parent) {
            (None, ..) => State::Missing,
            (Some(image), Some(base), _) if image.tag("ancestor") != base.id => State::Stale,
            (Some(_), _, Some(parent)) if behind => State::Behind(parent.label.clone()),
            (Some(_), ..) => State::Current,
        };
        let has = image.as_ref().map(|image| (image.tag("ancestor").to_owned(), image.tag("ancestor_name").to_owned()));
        let outdated = state.is_outdated();
        rows.push(Row { image: recipe.label.clone(), what: What::Image, state, has, newest: base.as_ref().map(named) });
        seen.insert(&recipe.label, (image, outdated));
    }
    Ok(rows)
}

/// What a bake would take from outside now, and how the lock on it stands.
async fn outside_base(api: &impl Bases, recipe: &Recipe, locked: Option<&Locked>) -> Result<(Option<Ami>, Row), Error> {
    debug_assert!(relock::is_outside(recipe));
    let row = |state, newest: Option<&Ami>| Row {
        image: recipe.label.clone(),
        what: What::Base,
        state,
        has: locked.map(|locked| (locked.id.clone(), locked.name.clone())),
        newest: newest.map(named),
    };
    let newest = match outside::newest(api, recipe).await {
        Err(Error::Api(error)) => return Err(error.into()),
        other => other,
    };
    let held = match locked {
        None => {
            return Ok(match newest {
                Ok(newest) => (Some(newest.clone()), row(State::Unlocked, Some(&newest))),
                Err(why) => (None, row(State::Refused(why.to_string()), None)),
            });
        }
        Some(locked) => outside::locked(api, recipe, locked).await,
    };
    Ok(match (held, newest) {
        (Err(Error::Api(error)), _) => return Err(error.into()),
        (Err(why), newest) => (None, row(State::Refused(why.to_string()), newest.as_ref().ok())),
        (Ok(held), Ok(newest)) if newest.id != held.id => (Some(held), row(State::Moved, Some(&newest))),
        (Ok(held), Ok(newest)) => (Some(held), row(State::Current, Some(&newest))),
        // It can still be built on, and nothing is newer.
        (Ok(held), Err(_)) => (Some(held), row(State::Current, None)),
    })
}

fn named(image: &Ami) -> (String, String) {
    (image.id.clone(), image.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::base::tests::{Account, SELF, account, ami, block_on, passed};
    use crate::images::load::tests::parsed;

    const FILE: &str = "images:\n  golden: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-*\"}}}\n  \
                        jetty: {layer: base, from: golden}\n  shop: {layer: app, from: jetty}\n";

    /// A line a row that is out of date.
    fn look_at(account: &Account, lock: Option<&str>) -> Vec<String> {
        let file = parsed(FILE);
        let graph = Graph::of(&file);
        let mut locks = Lock::default();
        if let Some(id) = lock {
            let images = account.images.borrow();
            let base = images.iter().find(|image| image.id == id).unwrap();
            locks.put("golden", "lab/x", Locked::of(file.image("golden").unwrap(), base));
        }
        let rows = block_on(look(account, &graph, Some(&locks), "lab/x")).unwrap();
        assert_eq!(rows.len(), 4);
        rows.iter()
            .filter(|row| row.state.is_outdated())
            .map(|row| {
                format!("{} {:?}: {}; {}", row.image, row.what, row.why().unwrap(), row.remedy().unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn a_newer_base_is_named_and_makes_nothing_stale_while_the_lock_holds() {
        let account = account();
        account.images.borrow_mut().push(ami(SELF, "ami-20", "golden-9", "x86_64", 9, &passed("golden", "ami-1")));
        assert_eq!(
            look_at(&account, Some("ami-1")),
            [
                "golden Base: debian-12-amd64-1 (ami-1) is locked, debian-12-amd64-2 (ami-2) is newer; kiln lock golden --update"
            ]
        );
        assert_eq!(
            look_at(&account, None),
            ["golden Image: built on  (ami-1), a bake takes debian-12-amd64-2 (ami-2); kiln bake golden"]
        );
    }

    #[test]
    fn what_is_built_on_an_older_image_is_stale_and_what_is_above_it_is_behind() {
        let account = account();
        let more = [
            ami(SELF, "ami-21", "jetty-1", "x86_64", 9, &passed("jetty", "ami-5")),
            ami(SELF, "ami-22", "shop-1", "x86_64", 9, &passed("shop", "ami-21")),
        ];
        account.images.borrow_mut().extend(more);
        assert_eq!(
            look_at(&account, Some("ami-2")),
            [
                "jetty Image: built on  (ami-5), a bake takes golden-2 (ami-6); kiln bake jetty",
                "shop Image: built on jetty, which is out of date itself; kiln bake jetty shop"
            ]
        );
    }

    #[test]
    fn a_locked_base_that_is_gone_is_told_and_is_no_failure() {
        let account = account();
        let file = parsed(FILE);
        let mut locks = Lock::default();
        locks.put(
            "golden",
            "lab/x",
            Locked::of(file.image("golden").unwrap(), &ami(SELF, "ami-0", "x", "x86_64", 1, &[])),
        );
        let rows = block_on(look(&account, &Graph::of(&file), Some(&locks), "lab/x")).unwrap();
        assert!(rows[0].state.is_outdated() && rows[0].why().unwrap().contains("is gone"), "{rows:?}");
        assert_eq!(
            rows.iter().filter(|row| row.state.is_outdated()).count(),
            1,
            "nothing can be said of the rest: {rows:?}"
        );
    }
}
