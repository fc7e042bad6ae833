//! The image that another is built on: the newest that fits.

use super::inputs::Inputs;
use super::lock::Locked;
use super::{From, Recipe, outside};
use crate::aws::{self, Ami, Bases, FindImages, ImageQuery};

/// The tag whose value says when an image passed its gate.
pub const GATE_TAG: &str = "gate";

/// The tag with the stage that an image has come to.
pub const STAGE_TAG: &str = "stage";

/// The stage of an image that nothing is to be built on or launched from any more.
pub const RETIRED: &str = "retired";

/// Tag that every image of this program carries, and none of anybody else.
pub const KEY_TAG: &str = "bake_key";

/// The tag that says when two instances of the image were compared, or that nobody did.
pub const PROOF_TAG: &str = "proof";

/// The tag that says what the seal passed over, and why.
pub const SKIPPED_TAG: &str = "seal_skipped";

/// The tag that says what the key was made of.
pub const INPUTS_TAG: &str = "bake_inputs";

/// The name of the base among the inputs of an image.
pub const BASE_INPUT: &str = "base";

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing fits.
    #[error("no base found for {image}: no available image fits {query}; {advice}")]
    None {
        /// The image to be built.
        image: String,
        /// What was asked.
        query: ImageQuery,
        /// What to do.
        advice: String,
    },
    /// There is one that must not be taken.
    #[error(transparent)]
    Refused(#[from] outside::Refusal),
    /// The API did not answer.
    #[error(transparent)]
    Api(#[from] aws::Error),
}

/// The image that this one is built on: the locked one, where there is a lock, else the newest.
///
/// # Errors
/// When none fits, with the query and what to do; when the one that there is must not be taken; and when the API
/// does not answer.
pub async fn resolve(api: &impl Bases, recipe: &Recipe, locked: Option<&Locked>) -> Result<Ami, Error> {
    match (&recipe.from, locked) {
        (From::Image(name), _) => {
            let query = made_by(name, recipe);
            let advice = || format!("bake it first: kiln bake {name}");
            let found = newest(in_use(api.find_images(&query).await?));
            found.ok_or_else(|| Error::None { image: recipe.label.clone(), query, advice: advice() })
        }
        (_, Some(locked)) => outside::locked(api, recipe, locked).await,
        (_, None) => outside::newest(api, recipe).await,
    }
}

/// The newest available image that this recipe made and that passed its gate.
///
/// # Errors
/// When the API does not answer.
pub async fn latest(api: &impl FindImages, recipe: &Recipe) -> Result<Option<Ami>, aws::Error> {
    Ok(newest(in_use(api.find_images(&made_by(&recipe.name, recipe)).await?)))
}

/// Whether this recipe made the image, and it passed its gate.
pub fn is_of(image: &Ami, recipe: &Recipe) -> bool {
    image.tag("application") == recipe.name
        && image.tag("store") == recipe.store.name()
        && image.arch == recipe.arch.name()
        && !image.tag(GATE_TAG).is_empty()
}

/// The image of this id, whoever owns it.
///
/// # Errors
/// When the API does not answer.
pub async fn by_id(api: &impl FindImages, id: &str) -> Result<Option<Ami>, aws::Error> {
    let query = ImageQuery { owners: vec![], filters: vec![("image-id".into(), vec![id.to_owned()])] };
    Ok(newest(api.find_images(&query).await?))
}

/// How an image that there is stands to one that would be made now.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// An image with the same inputs passed its gate.
    Same(Ami),
    /// The newest one has other inputs.
    Changed {
        /// The newest image.
        newest: Ami,
        /// The kinds of inputs that are others.
        inputs: Vec<String>,
    },
    /// There is none yet.
    None,
}

/// Whether an image with these inputs is there already.
///
/// # Errors
/// When the API does not answer.
pub async fn standing(api: &impl FindImages, recipe: &Recipe, inputs: &Inputs) -> Result<Standing, aws::Error> {
    let images = api.find_images(&made_by(&recipe.name, recipe)).await?;
    let key = inputs.key();
    let same = images.iter().filter(|image| image.tag(KEY_TAG) == key && image.tag(STAGE_TAG) != RETIRED);
    if let Some(image) = newest(same.cloned().collect()) {
        return Ok(Standing::Same(image));
    }
    Ok(match newest(images) {
        Some(newest) => {
            let changed = inputs.changed_since(newest.tag(INPUTS_TAG));
            Standing::Changed { inputs: changed.into_iter().map(str::to_owned).collect(), newest }
        }
        None => Standing::None,
    })
}

/// Every image of the account that this program made, the newest first.
///
/// # Errors
/// When the API does not answer.
pub async fn all(api: &impl FindImages) -> Result<Vec<Ami>, aws::Error> {
    let query = ImageQuery { owners: vec!["self".to_owned()], filters: vec![("tag-key".into(), vec![KEY_TAG.into()])] };
    let mut images = api.find_images(&query).await?;
    images.sort_by(|a, b| (&b.created, &b.name).cmp(&(&a.created, &a.name)));
    Ok(images)
}

/// Images of this name for the processor and store of a recipe. One counts when its gate passed: that tag is the
/// last thing a bake writes.
fn made_by(name: &str, recipe: &Recipe) -> ImageQuery {
    ImageQuery {
        owners: vec!["self".to_owned()],
        filters: vec![
            ("tag:application".into(), vec![name.to_owned()]),
            (format!("tag:{GATE_TAG}"), vec!["passed*".into()]),
            ("state".into(), vec!["available".into()]),
            ("architecture".into(), vec![recipe.arch.name().into()]),
            ("tag:store".into(), vec![recipe.store.name().into()]),
        ],
    }
}

/// Without those that were rolled back or have had their day: nothing is to be built on them.
fn in_use(mut images: Vec<Ami>) -> Vec<Ami> {
    images.retain(|image| image.tag(STAGE_TAG) != RETIRED);
    images
}

/// The one that was made last.
pub(super) fn newest(images: Vec<Ami>) -> Option<Ami> {
    // The name of an image of ours ends in its time to the second, which decides between equals.
    images.into_iter().max_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::images::{AmiFilter, Arch};

    /// An account with what others have published in its region, and parameters.
    pub struct Account {
        pub images: RefCell<Vec<Ami>>,
        pub parameters: Vec<(&'static str, &'static str)>,
    }

    /// The number of the account itself.
    pub const SELF: &str = "123456789012";
    pub const DEBIAN: &str = "136693071363";
    pub const STRANGER: &str = "666666666666";

    /// A pattern with `*` and `?`, as filters have it.
    fn fits(pattern: &str, text: &str) -> bool {
        match (pattern.chars().next(), text.chars().next()) {
            (None, None) => true,
            (Some('*'), _) => {
                fits(&pattern[1..], text) || text.chars().next().is_some_and(|c| fits(pattern, &text[c.len_utf8()..]))
            }
            (Some(p), Some(t)) if p == '?' || p == t => fits(&pattern[p.len_utf8()..], &text[t.len_utf8()..]),
            _ => false,
        }
    }

    /// Answers as DescribeImages does, for the filters that are used here.
    impl FindImages for Account {
        async fn find_images(&self, query: &ImageQuery) -> Result<Vec<Ami>, aws::Error> {
            let is = |ami: &Ami, name: &str, values: &[String]| match name {
                "name" => values.iter().any(|value| fits(value, &ami.name)),
                "architecture" => values.contains(&ami.arch),
                "state" => true,
                _ => {
                    let tag = name.strip_prefix("tag:").unwrap();
                    values.iter().any(|value| fits(value, ami.tag(tag)))
                }
            };
            let owner = |ami: &Ami, wanted: &str| ami.owner == if wanted == "self" { SELF } else { wanted };
            let images = self.images.borrow();
            let found = images.iter().filter(|ami| {
                (query.owners.is_empty() || query.owners.iter().any(|wanted| owner(ami, wanted)))
                    && query.filters.iter().all(|(name, values)| is(ami, name, values))
            });
            Ok(found.cloned().collect())
        }
    }

    impl Bases for Account {
        async fn known(&self, id: &str, query: &ImageQuery) -> Result<Option<Ami>, aws::Error> {
            Ok(self.find_images(query).await?.into_iter().find(|ami| ami.id == id))
        }

        async fn parameter(&self, name: &str) -> Result<Option<String>, aws::Error> {
            Ok(self.parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        }
    }

    /// An image on a network volume, made on the first of a month of 2026.
    pub fn ami(owner: &str, id: &str, name: &str, arch: &str, month: u8, tags: &[(&str, &str)]) -> Ami {
        Ami {
            id: id.to_owned(),
            name: name.to_owned(),
            owner: owner.to_owned(),
            arch: arch.to_owned(),
            root_device: "ebs".to_owned(),
            created: format!("2026-{month:02}-01T00:00:00.000Z"),
            tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            snapshots: vec![],
        }
    }

    /// The tags of an image of ours that passed.
    pub fn passed<'a>(application: &'a str, ancestor: &'a str) -> [(&'a str, &'a str); 4] {
        [
            ("application", application),
            ("gate", "passed 2026-01-01T00:00:00Z"),
            ("store", "ebs"),
            ("ancestor", ancestor),
        ]
    }

    pub fn account() -> Account {
        let images = vec![
            ami(DEBIAN, "ami-1", "debian-12-amd64-1", "x86_64", 1, &[]),
            ami(DEBIAN, "ami-2", "debian-12-amd64-2", "x86_64", 2, &[("line", "lts")]),
            ami(DEBIAN, "ami-3", "debian-12-arm64-3", "arm64", 3, &[]),
            ami(STRANGER, "ami-4", "debian-12-amd64-4", "x86_64", 4, &[("line", "lts")]),
            ami(SELF, "ami-5", "golden-1", "x86_64", 5, &passed("golden", "ami-2")),
            ami(SELF, "ami-6", "golden-2", "x86_64", 5, &passed("golden", "ami-2")),
            ami(SELF, "ami-7", "golden-3", "x86_64", 6, &[("application", "golden"), ("store", "ebs")]),
            ami(SELF, "ami-8", "golden-4", "arm64", 7, &passed("golden", "ami-3")),
            Ami {
                root_device: "instance-store".to_owned(),
                ..ami(DEBIAN, "ami-9", "debian-12-amd64-9", "x86_64", 9, &[])
            },
        ];
        let images = RefCell::new(images);
        Account {
            images,
            parameters: vec![("/d/12", "ami-1"), ("/d/evil", "ami-4"), ("/d/arm", "ami-3"), ("/d/x", "x")],
        }
    }

    pub fn recipe(from: From, arch: Arch) -> Recipe {
        Recipe { name: "app".into(), label: "app".into(), from, arch, ..crate::images::names::tests::recipe() }
    }

    pub fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    pub fn debian(owner: &str) -> From {
        From::Ami(AmiFilter { owners: vec![owner.into()], name: "debian-12-*".into(), tags: Default::default() })
    }

    fn ask(recipe: &Recipe) -> Result<Ami, Error> {
        block_on(resolve(&account(), recipe, None))
    }

    #[test]
    fn pain_7_a_look_alike_of_another_owner_is_not_taken_and_the_newest_of_the_right_architecture_and_store_is() {
        assert_eq!(ask(&recipe(debian(DEBIAN), Arch::X86_64)).unwrap().id, "ami-2");
        assert_eq!(ask(&recipe(debian(DEBIAN), Arch::Arm64)).unwrap().id, "ami-3");
    }

    #[test]
    fn of_our_own_images_only_those_of_the_same_variant_that_passed_their_gate_count() {
        assert_eq!(ask(&recipe(From::Image("golden".into()), Arch::X86_64)).unwrap().id, "ami-6");
        assert_eq!(ask(&recipe(From::Image("golden".into()), Arch::Arm64)).unwrap().id, "ami-8");
        let golden = Recipe { name: "golden".into(), ..recipe(debian(DEBIAN), Arch::X86_64) };
        assert_eq!(block_on(latest(&account(), &golden)).unwrap().unwrap().id, "ami-6");
        let images = account().images.into_inner();
        let made: Vec<_> = images.iter().filter(|image| is_of(image, &golden)).map(|image| image.id.as_str()).collect();
        assert_eq!(made, ["ami-5", "ami-6"]);
    }

    #[test]
    fn no_base_is_told_with_the_query_and_what_to_do() {
        let said = |from| ask(&recipe(from, Arch::X86_64)).unwrap_err().to_string();
        assert_eq!(
            said(debian("111111111111")),
            "no base found for app: no available image fits owners 111111111111, name debian-12-*, state available, \
             architecture x86_64; check `owners`, `name` and `arch` of images.app, and the region; in the lab, bring \
             one in with `kiln lab import`"
        );
        assert!(said(From::Image("jetty".into())).ends_with("bake it first: kiln bake jetty"));
    }
}
