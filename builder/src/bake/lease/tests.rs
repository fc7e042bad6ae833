//! Who waits for whom and for how long, on a clock that moves by the watcher's own pauses.
#![allow(clippy::disallowed_methods, reason = "a test starts a process that is to be dead")]

use std::cell::{Cell, RefCell};

use super::*;
use crate::aws::{Ami, ImageQuery, Thing};
use crate::journal::boot;

/// A lease that somebody else has, and what there is of that bake.
struct Cloud {
    clock: Cell<Duration>,
    /// Until when the holder gives signs of life.
    renews_until: Duration,
    /// When it lets go.
    releases_at: Duration,
    held: RefCell<Option<Held>>,
    taken: RefCell<Vec<String>>,
    things: RefCell<Vec<Thing>>,
    passed: Option<String>,
    /// What was removed and released, in order.
    gone: RefCell<Vec<String>>,
}

const NEVER: Duration = Duration::MAX;

impl Cloud {
    fn held_by(tags: &[(&str, &str)]) -> Cloud {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Cloud {
            clock: Cell::default(),
            renews_until: NEVER,
            releases_at: NEVER,
            held: RefCell::new(Some(Held { id: "lt-1".to_owned(), tags })),
            taken: RefCell::default(),
            things: RefCell::default(),
            passed: None,
            gone: RefCell::default(),
        }
    }

    /// Asks for the lease: what came of it, when, and whom it was told to wait for.
    fn acquire(&self) -> (Acquired, Duration, Vec<String>) {
        let mut waits = Vec::new();
        let pause = async |time| self.clock.set(self.clock.get() + time);
        let us = Holder::us(None);
        let acquired = acquire(self, "kiln-lease-myapp", &us, |who| waits.push(who.to_owned()), pause);
        let acquired = block_on(acquired).unwrap();
        (acquired, self.clock.get(), waits)
    }

    fn settle(&self, dead: &Held) -> Vec<String> {
        block_on(settle(self, "kiln-lease-myapp", dead)).unwrap()
    }

    fn holder(&self) -> Held {
        self.held.borrow().clone().unwrap()
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

impl Leases for Cloud {
    async fn take(&self, name: &str, _: &BTreeMap<String, String>) -> Result<Option<String>, aws::Error> {
        if self.clock.get() >= self.releases_at {
            self.held.take();
        }
        if self.held.borrow().is_some() {
            return Ok(None);
        }
        self.taken.borrow_mut().push(name.to_owned());
        Ok(Some("lt-ours".to_owned()))
    }

    async fn held(&self, _: &str) -> Result<Option<Held>, aws::Error> {
        let mut held = self.held.borrow().clone();
        if let Some(held) = &mut held {
            let sign = self.clock.get().min(self.renews_until).as_secs() / RENEW.as_secs();
            held.tags.insert(SIGN.to_owned(), sign.to_string());
        }
        Ok(held)
    }

    async fn held_with(&self, _: (&str, &str)) -> Result<Vec<Held>, aws::Error> {
        unreachable!("nobody who waits asks for this")
    }

    async fn renew(&self, id: &str, _: (&str, &str)) -> Result<(), aws::Error> {
        unreachable!("{id}: whoever waits gives no signs")
    }

    async fn release(&self, id: &str) -> Result<(), aws::Error> {
        self.gone.borrow_mut().push(id.to_owned());
        if self.held.borrow().as_ref().is_some_and(|held| held.id == id) {
            self.held.take();
        }
        Ok(())
    }
}

impl Reap for Cloud {
    async fn of_run(&self, run: Run<'_>) -> Result<Vec<Thing>, aws::Error> {
        assert_eq!((run.id, run.image_name), ("kiln-myapp-1", "myapp-1.0"));
        Ok(self.things.borrow().clone())
    }

    async fn remove(&self, thing: &Thing) -> Result<(), aws::Error> {
        self.gone.borrow_mut().push(thing.to_string());
        Ok(())
    }
}

impl FindImages for Cloud {
    async fn find_images(&self, query: &ImageQuery) -> Result<Vec<Ami>, aws::Error> {
        assert_eq!(query.to_string(), "owners self, name myapp-1.0, tag:gate passed*");
        Ok(self.passed.iter().map(|id| Ami { id: id.clone(), ..Ami::default() }).collect())
    }
}

/// A process of this machine that is no more.
fn dead_process() -> String {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let process = Identity::of(child.id().cast_signed()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    process.to_string()
}

#[test]
fn a_holder_that_renews_is_waited_for_until_it_lets_go() {
    let hour = Duration::from_secs(3600);
    let cloud = Cloud { releases_at: hour, ..Cloud::held_by(&[(HOST, "worker-2")]) };
    let (acquired, when, waits) = cloud.acquire();
    assert_eq!(acquired, Acquired::Ours("lt-ours".to_owned()));
    assert!(when >= hour && when < hour + 2 * LOOK, "{when:?}");
    assert_eq!(waits, ["worker-2"], "said once and not at every look");
}

#[test]
fn one_that_gives_no_sign_any_more_is_dead_a_minute_after_its_last() {
    let last = Duration::from_secs(605);
    let cloud = Cloud { renews_until: last, ..Cloud::held_by(&[(HOST, "worker-2")]) };
    let (acquired, when, _) = cloud.acquire();
    let Acquired::Dead(held) = acquired else { panic!("{acquired:?}") };
    assert_eq!(held.id, "lt-1");
    // Its last sign was at 600 s.
    let silent = when - Duration::from_secs(600);
    assert!(silent >= DEAD && silent <= DEAD + 2 * LOOK, "{silent:?}");
}

#[test]
fn the_next_holder_has_a_minute_of_its_own() {
    let cloud = Cloud { renews_until: Duration::ZERO, ..Cloud::held_by(&[(HOST, "worker-2")]) };
    let pause = async |time: Duration| {
        cloud.clock.set(cloud.clock.get() + time);
        if cloud.clock.get() == DEAD - LOOK {
            cloud.held.borrow_mut().as_mut().unwrap().id = "lt-2".to_owned();
        }
    };
    let acquired = block_on(acquire(&cloud, "kiln-lease-myapp", &Holder::us(None), |_| {}, pause)).unwrap();
    assert!(matches!(acquired, Acquired::Dead(held) if held.id == "lt-2"));
    assert!(cloud.clock.get() >= 2 * DEAD - LOOK, "{:?}", cloud.clock.get());
}

#[test]
fn a_dead_one_of_this_machine_is_not_waited_for() {
    let (process, boot) = (dead_process(), boot());
    let (acquired, when, waits) = Cloud::held_by(&[(BOOT, &boot), (PROCESS, &process)]).acquire();
    assert!(matches!(acquired, Acquired::Dead(_)));
    assert_eq!((when, waits.len()), (Duration::ZERO, 0));
}

#[test]
fn the_same_number_elsewhere_says_nothing() {
    let process = dead_process();
    let (machine, namespace) = boot().split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(!machine.is_empty() && !namespace.is_empty(), "{machine:?} {namespace:?}");
    // Another container of this machine, another boot of it, a holder that does not say.
    for boot in [format!("{machine}.1{namespace}"), format!("other.{namespace}"), machine.clone(), String::new()] {
        let cloud = Cloud::held_by(&[(BOOT, &boot), (PROCESS, &process)]);
        let cloud = Cloud { releases_at: Duration::from_secs(300), ..cloud };
        assert_eq!(cloud.acquire().0, Acquired::Ours("lt-ours".to_owned()), "{boot}");
    }
    // A living one of this machine, which is us.
    let us = Identity::of(std::process::id().cast_signed()).unwrap().to_string();
    let self_boot = boot();
    let cloud = Cloud::held_by(&[(BOOT, &self_boot), (PROCESS, &us)]);
    let cloud = Cloud { releases_at: Duration::from_secs(300), ..cloud };
    assert_eq!(cloud.acquire().0, Acquired::Ours("lt-ours".to_owned()));
}

fn dead_bake() -> Cloud {
    let cloud = Cloud::held_by(&[(RUN, "kiln-myapp-1"), (NAME, "myapp-1.0")]);
    let things = [Thing::Image("ami-1".into(), vec![]), Thing::KeyPair("k".into()), Thing::Instance("i-1".into())];
    cloud.things.replace(things.to_vec());
    cloud
}

#[test]
fn what_a_dead_one_left_is_removed_before_its_lease_goes() {
    let cloud = dead_bake();
    let told = cloud.settle(&cloud.holder());
    assert_eq!(cloud.gone.take(), ["instance i-1", "key pair k", "image ami-1", "lt-1"]);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(cloud.held.take().is_none());
}

#[test]
fn an_image_that_passed_is_no_leftover() {
    let cloud = Cloud { passed: Some("ami-1".to_owned()), ..dead_bake() };
    cloud.settle(&cloud.holder());
    assert_eq!(cloud.gone.take(), ["instance i-1", "key pair k", "lt-1"]);
}

#[test]
fn what_somebody_else_has_settled_is_not_touched() {
    let cloud = dead_bake();
    let dead = cloud.holder();
    // The one who settled it holds the name now, or nobody.
    for now in [Some(Held { id: "lt-2".to_owned(), ..dead.clone() }), None] {
        cloud.held.replace(now);
        assert_eq!(cloud.settle(&dead), Vec::<String>::new());
        assert_eq!(cloud.gone.take(), Vec::<String>::new());
    }
}

#[test]
fn a_lease_is_given_back_when_the_work_is_done() {
    let cloud = dead_bake();
    let lease = Lease { id: "lt-1".to_owned() };
    let held_meanwhile = async { cloud.held.borrow().is_some() };
    assert!(block_on(lease.during(&cloud, held_meanwhile)));
    assert_eq!(cloud.gone.take(), ["lt-1"]);
}

#[test]
fn a_dead_holder_of_work_without_leftovers_is_followed_at_once() {
    let (process, boot) = (dead_process(), boot());
    let cloud = Cloud::held_by(&[(BOOT, &boot), (PROCESS, &process)]);
    let progress = Progress::new(crate::bake::progress::Format::Json);
    let lease = block_on(hold(&cloud, &settling("kiln-myapp-1"), &progress)).unwrap();
    assert_eq!((lease.id.as_str(), cloud.gone.take()), ("lt-ours", vec!["lt-1".to_owned()]));
    assert_eq!(cloud.taken.take(), ["kiln-myapp-1-settle"]);
}
