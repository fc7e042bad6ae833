//! What a failed bake left in the cloud, found by the API and removed.

use crate::aws::{Reap, Run, Thing};
use crate::packer::RUN_TAG;

/// The end of a sentence on something that is gone.
const REMOVED: &str = "kiln removed it";

/// Whether nothing is left of what these sentences tell.
pub fn is_settled(told: &[String]) -> bool {
    told.iter().all(|sentence| sentence.ends_with(REMOVED))
}

/// Looks for everything of this run and removes it, but for an image that is to stay. The answer has a
/// sentence for each thing, and for what could not be looked for: none means that the API says that nothing
/// is left.
pub async fn remove(api: &impl Reap, run: Run<'_>, keep: Option<&str>) -> Vec<String> {
    let mut told = Vec::new();
    match api.of_run(run).await {
        Ok(mut things) => {
            things.retain(|thing| !matches!(thing, Thing::Image(id, _) if Some(id.as_str()) == keep));
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
        Err(error) => told.push(format!(
            "whether something is left cannot be told: {error}; the next bake looks again, by the \
             tag {}={}",
            RUN_TAG, run.id
        )),
    }
    told
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::aws::Error;

    struct Cloud {
        things: Result<Vec<Thing>, ()>,
        removed: RefCell<Vec<String>>,
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

    fn told(things: Result<Vec<Thing>, ()>) -> (Vec<String>, Vec<String>) {
        let run = Run { id: "run", image_name: "name", security_groups: &[] };
        let cloud = Cloud { things, removed: RefCell::default() };
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
    fn an_api_that_does_not_answer_is_not_nothing_left() {
        let (told, _) = told(Err(()));
        assert!(told[0].contains("cannot be told") && told[0].contains("kiln_run=run"), "{told:?}");
        assert!(!is_settled(&told));
    }
}
