//! Copies in a region that answers as EC2 does, and fails as it does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::super::wanted::tests::{image, wanted};
use super::*;
use crate::bake::progress::Format;
use crate::images::Distribution;

/// One region. What is called is written down.
#[derive(Default)]
struct Region {
    images: RefCell<Vec<Copied>>,
    shared: RefCell<BTreeSet<String>>,
    tokens: RefCell<Vec<(String, String)>>,
    calls: RefCell<Vec<String>>,
    /// The call that fails, with what the API or the network says.
    fails: Cell<Option<(&'static str, &'static str)>>,
    /// Whether a tag is taken and forgotten.
    forgets: Cell<bool>,
}

impl Region {
    fn call(&self, call: &'static str) -> Result<(), aws::Error> {
        self.calls.borrow_mut().push(call.to_owned());
        match self.fails.get() {
            Some((fails, reason)) if fails == call => {
                Err(aws::Error { call, at: "eu-west-1".into(), reason: reason.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

impl Copies for Region {
    async fn named(&self, name: &str) -> Result<Vec<Copied>, aws::Error> {
        Ok(self.images.borrow().iter().filter(|image| image.name == name).cloned().collect())
    }

    async fn of_line(&self, _: &str) -> Result<Vec<Copied>, aws::Error> {
        Ok(self.images.borrow().clone())
    }

    async fn order(&self, order: Order<'_>) -> Result<String, aws::Error> {
        assert!(!order.tags.contains_key(base::GATE_TAG), "not yet");
        if let Some((_, id)) = self.tokens.borrow().iter().find(|(token, _)| token == order.token) {
            return Ok(id.clone());
        }
        let id = format!("ami-copy{}", self.images.borrow().len());
        let made = Copied { name: order.name.to_owned(), state: State::Pending, ..image(&id, &[]) };
        let answered = self.call("CopyImage");
        // Refused makes nothing; an answer that is lost does.
        let is_lost = |reason: &str| ["dispatch", "InternalError"].iter().any(|word| reason.starts_with(word));
        if answered.as_ref().is_err_and(|error| !is_lost(&error.reason)) {
            return answered.map(|()| id);
        }
        self.images.borrow_mut().push(made);
        self.tokens.borrow_mut().push((order.token.to_owned(), id.clone()));
        answered.map(|()| id)
    }

    async fn available(&self, id: &str) -> Result<(), aws::Error> {
        self.call("available")?;
        self.images
            .borrow_mut()
            .iter_mut()
            .filter(|image| image.id == id)
            .for_each(|image| image.state = State::Available);
        Ok(())
    }

    async fn discard(&self, id: &str) -> Result<(), aws::Error> {
        self.call("DeregisterImage")?;
        self.images.borrow_mut().retain(|image| image.id != id);
        Ok(())
    }

    async fn label(&self, ids: &[&str], tags: &BTreeMap<String, String>) -> Result<(), aws::Error> {
        self.call(if tags.contains_key(base::GATE_TAG) { "gate" } else { "tags" })?;
        if !self.forgets.get() {
            let mut images = self.images.borrow_mut();
            images
                .iter_mut()
                .filter(|image| ids.contains(&image.id.as_str()))
                .for_each(|image| image.tags.extend(tags.clone()));
        }
        Ok(())
    }

    async fn shared(&self, _: &Copied) -> Result<BTreeSet<String>, aws::Error> {
        Ok(self.shared.borrow().clone())
    }

    async fn share(&self, _: &Copied, accounts: &[String]) -> Result<(), aws::Error> {
        self.call("share")?;
        self.shared.borrow_mut().extend(accounts.iter().cloned());
        Ok(())
    }

    async fn deprecate(&self, id: &str, at: jiff::Timestamp) -> Result<(), aws::Error> {
        self.call("deprecate")?;
        let mut images = self.images.borrow_mut();
        images.iter_mut().filter(|image| image.id == id).for_each(|image| image.deprecated = Some(at.to_string()));
        Ok(())
    }
}

/// A ledger that outlives a kiln.
#[derive(Default)]
struct Book {
    open: RefCell<Option<String>>,
    count: Cell<u32>,
}

impl Tokens for Book {
    fn begun(&self, _: &str) -> Result<String, journal::Error> {
        let new = || {
            self.count.set(self.count.get() + 1);
            format!("token-{}", self.count.get())
        };
        Ok(self.open.borrow_mut().get_or_insert_with(new).clone())
    }

    fn ended(&self, _: &str, _: &str) -> Result<(), journal::Error> {
        *self.open.borrow_mut() = None;
        Ok(())
    }
}

fn run(region: &Region, book: &Book) -> Outcome {
    let wanted = wanted(Distribution {
        copies: vec!["eu-west-1".into()],
        share_with: vec!["111122223333".into()],
        deprecate_after: Some(std::time::Duration::from_secs(86400)),
        ..Distribution::default()
    });
    let progress = Progress::new(Format::Text);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(settle(region, &wanted, "eu-west-1", book, &progress))
}

#[test]
fn that_it_passed_is_written_last_and_a_second_run_does_nothing() {
    let (region, book) = (Region::default(), Book::default());
    let outcome = run(&region, &book);
    assert_eq!((outcome.done, outcome.image.as_deref()), (Ok(Done::Copied), Some("ami-copy0")));
    assert_eq!(region.calls.take(), ["CopyImage", "available", "tags", "share", "deprecate", "gate"]);
    assert_eq!(run(&region, &book).done, Ok(Done::Complete));
    assert!(region.calls.take().is_empty());
}

#[test]
fn wherever_it_fails_the_next_run_completes_the_same_copy() {
    for (call, reason) in [
        ("CopyImage", "RequestLimitExceeded: slow down"),
        ("CopyImage", "dispatch failure: connection reset"),
        ("available", "throttled"),
        ("tags", "throttled"),
        ("share", "throttled"),
        ("deprecate", "throttled"),
        ("gate", "throttled"),
    ] {
        let (region, book) = (Region::default(), Book::default());
        region.fails.set(Some((call, reason)));
        let error = run(&region, &book).done.unwrap_err();
        assert!(error.contains(reason), "{call}: {error}");
        let images = region.images.borrow().clone();
        assert!(images.iter().all(|image| image.tag(base::GATE_TAG).is_empty()), "{call}: it does not count yet");
        region.fails.set(None);
        let done = run(&region, &book).done;
        assert!(matches!(done, Ok(Done::Copied | Done::Completed)), "{call}: {done:?}");
        assert_eq!(region.images.borrow().len(), 1, "{call} {reason}: copied once");
    }
}

#[test]
fn an_order_that_was_lost_from_sight_is_given_again_and_not_twice() {
    for reason in ["dispatch failure: timeout", "InternalError: an internal error has occurred"] {
        let (region, book) = (Region::default(), Book::default());
        region.fails.set(Some(("CopyImage", reason)));
        run(&region, &book).done.unwrap_err();
        // The API does not show it by its name yet.
        let hidden = region.images.take();
        region.fails.set(None);
        region.images.borrow_mut().push(Copied { name: "another".into(), ..hidden[0].clone() });
        let told = run(&region, &book).done.unwrap_err();
        assert!(told.contains("was there and cannot be found"), "{told}");
        assert_eq!(region.tokens.borrow().len(), 1, "{reason}");
    }
}

#[test]
fn a_copy_that_failed_gives_its_name_to_the_next() {
    let (region, book) = (Region::default(), Book::default());
    let failed = Copied { state: State::Failed("failed: no such key".into()), ..image("ami-bad", &[]) };
    region.images.borrow_mut().push(failed);
    region.tokens.borrow_mut().push((book.begun("").unwrap(), "ami-bad".into()));
    let outcome = run(&region, &book);
    assert_eq!(outcome.done, Ok(Done::Copied));
    assert_ne!(outcome.image.as_deref(), Some("ami-bad"));
    assert_eq!(region.images.borrow().len(), 1);
}

#[test]
fn tags_that_are_not_there_afterwards_are_told() {
    let (region, book) = (Region::default(), Book::default());
    region.forgets.set(true);
    let told = run(&region, &book).done.unwrap_err();
    assert_eq!(told, "ami-copy0 lacks the tag application, the tag copied_from, the tag gate after all was written");
}

#[test]
fn an_image_of_another_bake_is_left_alone() {
    let (region, book) = (Region::default(), Book::default());
    region.images.borrow_mut().push(image("ami-theirs", &[(base::KEY_TAG, "other")]));
    let told = run(&region, &book).done.unwrap_err();
    assert!(told.contains("ami-theirs in eu-west-1 has the name app-1.0"), "{told}");
    assert!(region.calls.take().is_empty());
}
