//! What a failed bake left in the cloud, found by the API and removed.

use super::recover;
use crate::aws::{self, FindImages, Reap, Run, Thing};
use crate::packer::RUN_TAG;

/// The end of a sentence on something that is gone.
const REMOVED: &str = "kiln removed it";

/// Whether nothing is left of what these sentences tell.
pub fn is_settled(told: &[String]) -> bool {
    told.iter().all(|sentence| sentence.ends_with(REMOVED))
}

/// Looks for everything of this run and removes it, but for an image that is to stay and for one that has
/// passed: whoever began in the same second has made an image of the same name. The answer has a
/// sentence for each thing, and for what could not be looked for: none means that the API says that nothing
/// is left.
pub async fn remove(api: &(impl Reap + FindImages), run: Run<'_>, keep: Option<&str>) -> Vec<String> {
    let mut told = Vec::new();
    match api.of_run(run).await {
        Ok(mut things) => {
            things.retain(|thing| !matches!(thing, Thing::Image(id, _) if Some(id.as_str()) == keep));
            let images = things.iter().any(|thing| matches!(thing, Thing::Image(..)));
            let passed = if images { recover::passed(api, run.image_name).await } else { Ok(None) };
            match &passed {
                Ok(passed) => {
                    things.retain(|thing| !matches!(thing, Thing::Image(id, _) if Some(id) == passed.as_ref()))
                }
                Err(error) => {
                    things.retain(|thing| !matches!(thing, Thing::Image(..)));
                    told.push(unknown(error, run));
                }
            }
            // An instance holds its security group, and its key pair is of use as long as it is there.
            things.sort_by_key(|thing| match thing {
                Thing::Instance(_) => 0,
                Thing::KeyPair(_) => 1,
                Thing::SecurityGroup(_) => 2,
                Thing::Image(..) => 3,
            });
            for thing in things {
                let what = match thing {
                    Thing::Image(..) => format!("nothing vouches for {thing}"),
                    _ => format!("packer left {thing} behind"),
                };
                told.push(match api.remove(&thing).await {
                    Ok(()) => format!("{what}; {REMOVED}"),
                    Err(error) => format!("{what}, and it is still there: {error}"),
                });
            }
        }
        Err(error) => told.push(unknown(&error, run)),
    }
    told
}

fn unknown(error: &aws::Error, run: Run<'_>) -> String {
    format!(
        "whether something is left cannot be told: {error}; the next bake looks again, by the tag {RUN_TAG}={}",
        run.id
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::aws::{Ami, Error, ImageQuery};

    struct Cloud {
        things: Result<Vec<Thing>, ()>,
        removed: RefCell<Vec<String>>,
        passed: Result<Vec<Ami>, ()>,
    }

    fn error(call: &'static str) -> Error {
        Error { call, at: "eu-west-1".into(), reason: "Throttling: slow down".into() }
    }

    impl Reap for Cloud {
        async fn of_run(&self, _: Run<'_>) -> Result<Vec<Thing>, Error> {
            self.things.clone().map_err(|()| error("DescribeInstances"))
        }

        async fn remove(&self, thing: &Thing) -> Result<(), Error> {
            if matches!(thing, Thing::KeyPair(_)) {
                return Err(error("DeleteKeyPair"));
            }
            self.removed.borrow_mut().push(thing.to_string());
            Ok(())
        }
    }

    impl FindImages for Cloud {
        async fn find_images(&self, _: &ImageQuery) -> Result<Vec<Ami>, Error> {
            self.passed.clone().map_err(|()| error("DescribeImages"))
        }
    }

    fn told(things: Result<Vec<Thing>, ()>) -> (Vec<String>, Vec<String>) {
        told_where(Ok(vec![]), things)
    }

    fn told_where(passed: Result<Vec<Ami>, ()>, things: Result<Vec<Thing>, ()>) -> (Vec<String>, Vec<String>) {
        let run = Run { id: "run", image_name: "name", security_groups: &[] };
        let cloud = Cloud { things, removed: RefCell::default(), passed };
        let told = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(remove(&cloud, run, None));
        (told, cloud.removed.into_inner())
    }

    #[test]
    fn instances_go_first_and_one_refusal_stops_nothing() {
        let group = Thing::SecurityGroup("sg-1".into());
        let things = vec![
            Thing::Image("ami-1".into(), vec![]),
            Thing::KeyPair("k".into()),
            group,
            Thing::Instance("i-1".into()),
        ];
        let (told, removed) = told(Ok(things));
        assert_eq!(removed, ["instance i-1", "security group sg-1", "image ami-1"]);
        assert_eq!(told.len(), 4);
        assert!(told[1].contains("key pair k behind, and it is still there: DeleteKeyPair failed"), "{told:?}");
    }

    #[test]
    fn an_image_of_this_name_that_has_passed_is_not_of_the_run_that_failed() {
        let things = || Ok(vec![Thing::Image("ami-1".into(), vec![]), Thing::Instance("i-1".into())]);
        let image = Ami { id: "ami-1".into(), ..Ami::default() };
        assert_eq!(told_where(Ok(vec![image]), things()).1, ["instance i-1"]);
        let (told, removed) = told_where(Err(()), things());
        assert_eq!(removed, ["instance i-1"], "whether it has passed is not known");
        assert!(!is_settled(&told), "{told:?}");
    }

    #[test]
    fn an_api_that_does_not_answer_is_not_nothing_left() {
        let (told, _) = told(Err(()));
        assert!(told[0].contains("cannot be told") && told[0].contains("kiln_run=run"), "{told:?}");
        assert!(!is_settled(&told));
    }
}
