//! Canaries on a small account of launch templates and groups.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::aws::{Error as ApiError, Group, Instance, Template, TemplateVersion};

/// One launch template `web` with its versions, and one group `fleet` that launches by it.
#[derive(Default)]
struct Account {
    versions: RefCell<Vec<String>>,
    default: RefCell<i64>,
    tags: RefCell<BTreeMap<String, String>>,
    by: RefCell<String>,
    mixed: bool,
    /// The call that fails, as one does when the network goes.
    fails: RefCell<&'static str>,
}

impl Account {
    fn new(by: &str) -> Account {
        let versions = RefCell::new(vec!["ami-older".to_owned(), "ami-old".to_owned()]);
        Account { versions, default: RefCell::new(1), by: RefCell::new(by.to_owned()), ..Account::default() }
    }

    fn call(&self, call: &'static str) -> Result<(), ApiError> {
        match *self.fails.borrow() == call {
            true => Err(ApiError { call, at: "eu-west-1".into(), reason: "dispatch failure".into() }),
            false => Ok(()),
        }
    }

    fn number(&self, version: &str) -> i64 {
        match version {
            "$Latest" => self.versions.borrow().len() as i64,
            "$Default" => *self.default.borrow(),
            number => number.parse().unwrap(),
        }
    }

    /// The image of the next instance of the group.
    fn next(&self) -> String {
        let number = self.number(&self.by.borrow());
        self.versions.borrow()[usize::try_from(number).unwrap() - 1].clone()
    }
}

impl Fleet for Account {
    async fn template(&self, name: &str) -> Result<Option<Template>, ApiError> {
        let tags = self.tags.borrow().clone();
        Ok(["web", "lt-1"].contains(&name).then(|| Template { id: "lt-1".into(), name: "web".into(), tags }))
    }

    async fn version(&self, _: &str, version: &str) -> Result<Option<TemplateVersion>, ApiError> {
        let number = self.number(version);
        let image = self.versions.borrow().get(usize::try_from(number).unwrap() - 1).cloned();
        Ok(image.map(|image| TemplateVersion { number, image }))
    }

    async fn add_version(&self, _: &str, like: i64, image: Option<&str>, _: &str) -> Result<i64, ApiError> {
        self.call("CreateLaunchTemplateVersion")?;
        let mut versions = self.versions.borrow_mut();
        let image = image.map_or_else(|| versions[usize::try_from(like).unwrap() - 1].clone(), str::to_owned);
        versions.push(image);
        Ok(versions.len() as i64)
    }

    async fn set_default(&self, _: &str, version: i64) -> Result<(), ApiError> {
        self.call("ModifyLaunchTemplate")?;
        *self.default.borrow_mut() = version;
        Ok(())
    }

    async fn mark(&self, _: &str, key: &str, value: Option<&str>) -> Result<(), ApiError> {
        let mut tags = self.tags.borrow_mut();
        match value {
            Some(value) => tags.insert(key.to_owned(), value.to_owned()),
            None => tags.remove(key),
        };
        Ok(())
    }

    async fn instances(&self, _: &str, _: jiff::Timestamp) -> Result<Vec<Instance>, ApiError> {
        Ok(Vec::new())
    }
}

impl Scaling for Account {
    async fn group(&self, name: &str) -> Result<Option<Group>, ApiError> {
        let template = ["fleet", "other"].contains(&name).then(|| ("lt-1".to_owned(), self.by.borrow().clone()));
        let group = Group { template, mixed: self.mixed, unhealthy: vec![] };
        Ok((name != "nobody").then_some(group))
    }

    async fn launch_by(&self, _: &str, _: &str, version: i64) -> Result<(), ApiError> {
        self.call("UpdateAutoScalingGroup")?;
        *self.by.borrow_mut() = version.to_string();
        Ok(())
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn find(account: &Account, which: Which) -> Result<Place, Error> {
    run(Place::find_at(account, account, &which, "eu-west-1"))
}

fn fleet(account: &Account) -> Place {
    find(account, Which::Group("fleet".into())).unwrap()
}

#[test]
fn there_and_back_again_by_every_way_to_name_a_version() {
    for (by, before) in [("$Latest", "ami-old"), ("$Default", "ami-older"), ("1", "ami-older")] {
        let account = Account::new(by);
        assert_eq!(account.next(), before, "{by}");
        let told = run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap();
        assert!(told.starts_with("new instances of auto scaling group fleet take ami-new (web-2)"), "{told}");
        assert_eq!(account.next(), "ami-new", "{by}");
        run(stop_at(&account, &account, &fleet(&account))).unwrap();
        assert_eq!(account.next(), before, "{by}");
        assert!(account.tags.borrow().is_empty(), "nothing is under way any more");
        assert!(run(stop_at(&account, &account, &fleet(&account))).is_err());
    }
}

#[test]
fn a_start_or_stop_that_was_cut_short_is_completed_by_the_next() {
    for (by, call) in [
        ("$Latest", "CreateLaunchTemplateVersion"),
        ("$Default", "CreateLaunchTemplateVersion"),
        ("$Default", "ModifyLaunchTemplate"),
        ("1", "UpdateAutoScalingGroup"),
    ] {
        let account = Account::new(by);
        let before = account.next();
        let start = || run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2")));
        let stop = || run(stop_at(&account, &account, &fleet(&account)));
        *account.fails.borrow_mut() = call;
        assert!(start().is_err(), "{by} {call}");
        *account.fails.borrow_mut() = "";
        start().unwrap();
        assert_eq!(account.next(), "ami-new", "{by} {call}");
        assert_eq!(account.versions.borrow().len(), 3, "one version for one canary");
        *account.fails.borrow_mut() = call;
        let cut = stop().is_err();
        *account.fails.borrow_mut() = "";
        if cut {
            stop().unwrap();
        }
        assert_eq!(account.next(), before, "{by} {call}");
    }
}

fn keep_now(account: &Account) -> Option<String> {
    let place = fleet(account);
    run(keep(account, &place, &place.record().unwrap().unwrap())).unwrap()
}

#[test]
fn a_template_that_reads_a_parameter_reads_it_again_after_a_good_canary() {
    for by in ["$Latest", "$Default", "1"] {
        let account = Account::new(by);
        account.versions.borrow_mut().fill("resolve:ssm:/kiln/web/production".to_owned());
        run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap();
        assert_eq!(keep_now(&account).as_deref(), Some("/kiln/web/production"));
        assert_eq!(account.next(), "ami-new", "until it is promoted");
        run(stop_at(&account, &account, &fleet(&account))).unwrap();
        assert_eq!(account.next(), "resolve:ssm:/kiln/web/production", "{by}");
    }
}

#[test]
fn one_image_at_a_time_is_tried() {
    let account = Account::new("$Default");
    run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap();
    let error = run(start_at(&account, &account, &fleet(&account), ("ami-newer", "web-3"))).unwrap_err().to_string();
    assert!(error.contains("auto scaling group fleet tries ami-new already"), "{error}");
    assert_eq!(keep_now(&account), None);
    let error = run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap_err().to_string();
    assert!(error.contains("launches ami-new already"), "{error}");
}

#[test]
fn a_canary_that_somebody_else_ended_is_not_ended_again() {
    let account = Account::new("$Default");
    let start = |id| run(start_at(&account, &account, &fleet(&account), (id, "web"))).unwrap();
    start("ami-new");
    let watched = fleet(&account).record().unwrap().unwrap();
    fleet(&account).still(&watched).unwrap();
    run(stop_at(&account, &account, &fleet(&account))).unwrap();
    assert!(fleet(&account).still(&watched).is_err());
    start("ami-newer");
    let error = fleet(&account).still(&watched).unwrap_err().to_string();
    assert!(error.contains("somebody else has ended the canary of ami-new in auto scaling group fleet"), "{error}");
}

#[test]
fn a_canary_of_one_group_is_none_of_another_that_launches_by_the_same_template() {
    let account = Account::new("1");
    run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap();
    let next = account.next();
    for other in [Which::Group("other".into()), Which::Template("web".into())] {
        let place = find(&account, other).unwrap();
        for told in
            [run(start_at(&account, &account, &place, ("ami-new", "web-2"))), run(stop_at(&account, &account, &place))]
        {
            let error = told.unwrap_err().to_string();
            assert!(error.contains("is that of auto scaling group fleet: name it"), "{error}");
        }
    }
    assert_eq!(account.next(), next, "nothing was changed");
    run(stop_at(&account, &account, &fleet(&account))).unwrap();
}

#[test]
fn a_version_that_somebody_else_made_is_not_taken_for_that_of_the_canary() {
    let account = Account::new("$Default");
    account.versions.borrow_mut().push("ami-new".to_owned());
    let told = run(start_at(&account, &account, &fleet(&account), ("ami-new", "web-2"))).unwrap();
    assert!(told.contains("version 4 of launch template web, before it version 1"), "{told}");
}

#[test]
fn what_cannot_have_a_canary_is_told() {
    let account = Account::new("3");
    for (which, expected) in [
        (Which::Group("nobody".into()), "there is no auto scaling group nobody in eu-west-1"),
        (Which::Group("by-configuration".into()), "launches by no launch template"),
        (Which::Template("lt-9".into()), "there is no launch template lt-9 in eu-west-1"),
    ] {
        let error = find(&account, which).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mixed = Account { mixed: true, ..Account::new("3") };
    let error = find(&mixed, Which::Group("fleet".into())).unwrap_err().to_string();
    assert!(error.contains("mixes instances by version 3"), "{error}");
    account.tags.borrow_mut().insert(TAG.into(), "mine".into());
    assert!(fleet(&account).record().unwrap_err().to_string().contains("is no record of kiln"));
}
