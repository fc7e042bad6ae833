//! Promotions in two regions in which any call may fail.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::*;
use crate::aws::{Copied, Error as ApiError, Order, State};
use crate::bake::progress::Format;

/// Everything in both regions; writing calls are counted, and one of them fails.
#[derive(Default)]
struct World {
    images: RefCell<BTreeMap<(&'static str, String), Copied>>,
    parameters: RefCell<BTreeMap<(&'static str, String), Vec<Version>>>,
    writes: Cell<u32>,
    /// The number of the write that fails, and whether all after it do as well, as when kiln is killed.
    fails: Cell<Option<(u32, bool)>>,
}

struct Region(&'static str, Rc<World>);

impl Region {
    fn write(&self, call: &'static str) -> Result<(), ApiError> {
        let number = self.1.writes.get();
        self.1.writes.set(number + 1);
        match self.1.fails.get() {
            Some((fails, after)) if number == fails || (after && number > fails) => {
                Err(ApiError { call, at: self.0.into(), reason: "throttled".into() })
            }
            _ => Ok(()),
        }
    }
}

impl Copies for Region {
    async fn named(&self, _: &str) -> Result<Vec<Copied>, ApiError> {
        unreachable!("stages ask for lines")
    }
    async fn of_line(&self, line: &str) -> Result<Vec<Copied>, ApiError> {
        let images = self.1.images.borrow();
        let here = images.iter().filter(|((region, _), image)| *region == self.0 && image.tag("application") == line);
        Ok(here.map(|(_, image)| image.clone()).collect())
    }
    async fn order(&self, _: Order<'_>) -> Result<String, ApiError> {
        unreachable!("stages copy nothing")
    }
    async fn available(&self, _: &str) -> Result<(), ApiError> {
        unreachable!("stages make nothing")
    }
    async fn discard(&self, _: &str) -> Result<(), ApiError> {
        unreachable!("stages take nothing away")
    }
    async fn label(&self, ids: &[&str], tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
        self.write("CreateTags")?;
        let mut images = self.1.images.borrow_mut();
        images
            .values_mut()
            .filter(|image| ids.contains(&image.id.as_str()))
            .for_each(|image| image.tags.extend(tags.clone()));
        Ok(())
    }
    async fn shared(&self, _: &Copied) -> Result<BTreeSet<String>, ApiError> {
        unreachable!("stages share nothing")
    }
    async fn share(&self, _: &Copied, _: &[String]) -> Result<(), ApiError> {
        unreachable!("stages share nothing")
    }
    async fn deprecate(&self, _: &str, _: jiff::Timestamp) -> Result<(), ApiError> {
        unreachable!("stages set no date")
    }
}

impl Parameters for Region {
    async fn history(&self, name: &str) -> Result<Vec<Version>, ApiError> {
        Ok(self.1.parameters.borrow().get(&(self.0, name.to_owned())).cloned().unwrap_or_default())
    }
    async fn set(&self, name: &str, version: &Version) -> Result<(), ApiError> {
        self.write("PutParameter")?;
        self.1.parameters.borrow_mut().entry((self.0, name.to_owned())).or_default().push(version.clone());
        Ok(())
    }
}

const REGIONS: [&str; 2] = ["home", "far"];

/// Two regions with the images a, b and c of the line app, of which these have a stage.
fn world(stages: &[(&str, &str)]) -> Rc<World> {
    let world = World::default();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        for region in REGIONS {
            let stage = stages.iter().find(|(other, _)| *other == name).map_or("candidate", |(_, stage)| stage);
            let tags = [("application", "app"), ("gate", "passed x"), ("stage", stage)];
            let image = Copied {
                id: format!("ami-{region}-{name}"),
                name: name.into(),
                state: State::Available,
                created: format!("2026-01-0{number}T00:00:00Z"),
                description: String::new(),
                tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                snapshots: vec![],
                deprecated: None,
                plain: false,
            };
            world.images.borrow_mut().insert((region, name.into()), image);
        }
    }
    Rc::new(world)
}

fn places(world: &Rc<World>) -> Places<Region, Region> {
    let regions = || REGIONS.map(|region| (region.to_owned(), Region(region, world.clone()))).into_iter().collect();
    Places { home: "home".into(), images: regions(), parameters: regions() }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn promote(world: &Rc<World>, image: Option<&str>, to: Stage, force: bool) -> Result<Moved, Error> {
    let id = image.map(|name| format!("ami-home-{name}"));
    let wish = Promotion { image: "app".into(), to, reason: Some("why".into()), force };
    run(promote_in(&places(world), "app", id.as_deref(), &wish, "prod"))
}

fn rollback(world: &Rc<World>, to: Option<&str>) -> Result<Moved, Error> {
    run(rollback_in(&places(world), "app", to, Some("bad"), "prod", &Progress::new(Format::Text)))
}

/// Stages by region, and what the parameters of production and canary have; times of day are left out.
fn state(world: &World) -> String {
    let images = world.images.borrow();
    let mut text = String::new();
    for region in REGIONS {
        let stages: Vec<_> = images
            .iter()
            .filter(|((at, _), _)| *at == region)
            .map(|((_, name), image)| format!("{name}={}", image.tag("stage")))
            .collect();
        let has = |stage| {
            world
                .parameters
                .borrow()
                .get(&(region, rules::parameter("app", stage)))
                .and_then(|all| Some(all.last()?.image.clone()))
        };
        text += &format!("{region}: {} {:?} {:?}\n", stages.join(" "), has(Stage::Production), has(Stage::Canary));
    }
    text
}

#[test]
fn a_line_goes_forward_and_back() {
    let world = world(&[]);
    for name in ["a", "b"] {
        promote(&world, Some(name), Stage::Canary, false).unwrap();
        let moved = promote(&world, None, Stage::Production, false).unwrap();
        assert!(moved.is_complete() && !moved.already && moved.name == name, "{moved:?}");
        assert!(promote(&world, None, Stage::Production, false).unwrap().already);
    }
    let stages = |a: &str, b: &str, c: &str, production: &str, canary: &str| -> String {
        let line =
            |at| format!("{at}: a={a} b={b} c={c} Some(\"ami-{at}-{production}\") Some(\"ami-{at}-{canary}\")\n");
        REGIONS.map(line).concat()
    };
    assert_eq!(state(&world), stages("previous", "production", "candidate", "b", "b"));
    rollback(&world, None).unwrap();
    assert_eq!(state(&world), stages("production", "retired", "candidate", "a", "a"));
    assert!(rollback(&world, None).unwrap_err().to_string().contains("nothing was in production before ami-home-a"));
    let error = promote(&world, Some("b"), Stage::Production, false).unwrap_err().to_string();
    assert!(error.contains("b is retired and production takes canary alone"), "{error}");
    promote(&world, Some("b"), Stage::Production, true).unwrap();
    assert_eq!(state(&world), stages("previous", "production", "candidate", "b", "a"));
    rollback(&world, Some("ami-far-a")).unwrap();
    assert_eq!(state(&world), stages("production", "retired", "candidate", "a", "a"));
}

#[test]
fn an_image_that_is_not_everywhere_is_promoted_nowhere() {
    let world = world(&[]);
    world.images.borrow_mut().remove(&("far", "c".to_owned()));
    let before = state(&world);
    let error = promote(&world, None, Stage::Canary, false).unwrap_err().to_string();
    assert_eq!(error, "c is not complete in far: kiln copy ami-home-c");
    assert_eq!((state(&world), world.writes.get()), (before, 0));
}

#[test]
fn a_name_stands_for_no_image_that_is_not_where_images_are_baked() {
    let world = world(&[]);
    world.images.borrow_mut().remove(&("home", "c".to_owned()));
    let moved = promote(&world, None, Stage::Canary, false).unwrap();
    assert_eq!(moved.name, "b", "c was made elsewhere, or its original is gone");
}

/// Runs it with each of its writes failing, alone or with all after it, and once more: it ends as if nothing
/// had failed.
fn is_completed(prepare: impl Fn() -> Rc<World>, act: impl Fn(&Rc<World>) -> Result<Moved, Error>) {
    let good = prepare();
    let before = good.writes.get();
    act(&good).unwrap();
    let (expected, writes) = (state(&good), good.writes.get() - before);
    assert!(writes >= 6, "two regions with a parameter and two images: {writes}");
    for number in 0..writes {
        for after in [false, true] {
            let world = prepare();
            world.fails.set(Some((before + number, after)));
            let told = act(&world);
            assert!(told.is_err() || !told.unwrap().is_complete(), "write {number} failed and nobody was told");
            world.fails.set(None);
            assert!(act(&world).unwrap().is_complete());
            assert_eq!(state(&world), expected, "after write {number} failed, and the rest: {after}");
            let history = world.parameters.borrow()[&("home", rules::parameter("app", Stage::Production))].clone();
            assert_eq!(history, good_history(&good, &history), "written once");
        }
    }
}

/// The same history, with the times of another run.
fn good_history(good: &World, like: &[Version]) -> Vec<Version> {
    let history = good.parameters.borrow()[&("home", rules::parameter("app", Stage::Production))].clone();
    assert_eq!(history.len(), like.len());
    history.into_iter().zip(like).map(|(good, like)| Version { record: like.record.clone(), ..good }).collect()
}

fn b_in_production() -> Rc<World> {
    let world = world(&[]);
    for name in ["a", "b"] {
        promote(&world, Some(name), Stage::Canary, false).unwrap();
        promote(&world, None, Stage::Production, false).unwrap();
    }
    world
}

#[test]
fn a_promotion_that_was_cut_short_anywhere_is_completed_by_the_same_again() {
    let prepare = || {
        let world = b_in_production();
        promote(&world, Some("c"), Stage::Canary, false).unwrap();
        world
    };
    is_completed(prepare, |world| promote(world, None, Stage::Production, false));
}

#[test]
fn a_rollback_goes_back_from_a_promotion_that_was_cut_short_anywhere() {
    let prepare = || {
        let world = b_in_production();
        promote(&world, Some("c"), Stage::Canary, false).unwrap();
        world
    };
    let good = prepare();
    let before = good.writes.get();
    promote(&good, None, Stage::Production, false).unwrap();
    let writes = good.writes.get() - before;
    rollback(&good, None).unwrap();
    for number in 1..writes {
        let world = prepare();
        world.fails.set(Some((before + number, true)));
        assert!(!promote(&world, None, Stage::Production, false).unwrap().is_complete());
        world.fails.set(None);
        let moved = rollback(&world, None).unwrap();
        assert_eq!((moved.name.as_str(), moved.is_complete()), ("b", true), "after write {number}");
        assert_eq!(state(&world), state(&good), "after write {number}");
    }
}

#[test]
fn what_is_completed_later_is_recorded_as_it_was_begun() {
    let world = b_in_production();
    // The parameter is written where images are baked, and nothing else.
    world.fails.set(Some((world.writes.get() + 1, true)));
    assert!(!rollback(&world, None).unwrap().is_complete());
    world.fails.set(None);
    assert!(rollback(&world, None).unwrap().is_complete());
    let record = world.parameters.borrow()[&("home", rules::parameter("app", Stage::Production))].last().cloned();
    let images = world.images.borrow();
    let tag = |key| images[&("far", "b".to_owned())].tag(key).to_owned();
    assert_eq!((tag("stage"), tag("retired_why")), ("retired".to_owned(), "bad".to_owned()));
    let told = format!("rolled back by {} at {}: bad", tag("retired_by"), tag("retired_at"));
    assert_eq!(record.map(|version| version.record), Some(told));
}

#[test]
fn a_rollback_that_was_cut_short_anywhere_is_completed_and_goes_no_further() {
    let prepare = || {
        let world = b_in_production();
        promote(&world, Some("c"), Stage::Canary, false).unwrap();
        promote(&world, None, Stage::Production, false).unwrap();
        world
    };
    is_completed(prepare, |world| rollback(world, None));
}
