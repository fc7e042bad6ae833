//! The image that another is built on: the newest that fits.

use super::inputs::Inputs;
use super::{From, Recipe};
use crate::aws::{self, Ami, FindImages, ImageQuery};

/// The tag whose value says when an image passed its gate.
pub const GATE_TAG: &str = "gate";

/// Tag that every image of this program carries, and none of anybody else.
pub const KEY_TAG: &str = "bake_key";

/// The tag that says what the key was made of.
pub const INPUTS_TAG: &str = "bake_inputs";

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
    /// The API did not answer.
    #[error(transparent)]
    Api(#[from] aws::Error),
}

/// The newest image that this one is built on.
///
/// # Errors
/// When none fits, with the query and what to do, and when the API does not answer.
pub async fn resolve(api: &impl FindImages, recipe: &Recipe) -> Result<Ami, Error> {
    let query = query(recipe);
    match newest(api.find_images(&query).await?) {
        Some(base) => Ok(base),
        None => Err(Error::None { image: recipe.name.clone(), query, advice: advice(recipe) }),
    }
}

/// The newest available image that this recipe made and that passed its gate.
///
/// # Errors
/// When the API does not answer.
pub async fn latest(api: &impl FindImages, name: &str) -> Result<Option<Ami>, aws::Error> {
    Ok(newest(api.find_images(&made_by(name)).await?))
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
    let mut query = made_by(&recipe.name);
    query.filters.push(("architecture".into(), vec![recipe.arch.name().into()]));
    let images = api.find_images(&query).await?;
    let key = inputs.key();
    let same = images.iter().filter(|image| image.tag(KEY_TAG) == key && image.tag("stage") != "retired");
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

fn query(recipe: &Recipe) -> ImageQuery {
    match &recipe.from {
        From::Image(name) => {
            let mut query = made_by(name);
            query.filters.push(("architecture".into(), vec![recipe.arch.name().into()]));
            query
        }
        From::Ami(filter) => ImageQuery {
            owners: filter.owners.clone(),
            filters: vec![
                ("name".into(), vec![filter.name.clone()]),
                ("state".into(), vec!["available".into()]),
                ("architecture".into(), vec![recipe.arch.name().into()]),
            ],
        },
    }
}

/// An image of ours counts when its gate passed: that tag is the last thing a bake writes.
fn made_by(name: &str) -> ImageQuery {
    ImageQuery {
        owners: vec!["self".to_owned()],
        filters: vec![
            ("tag:application".into(), vec![name.to_owned()]),
            (format!("tag:{GATE_TAG}"), vec!["passed*".into()]),
            ("state".into(), vec!["available".into()]),
        ],
    }
}

fn newest(images: Vec<Ami>) -> Option<Ami> {
    // The name of an image of ours ends in its time to the second, which decides between equals.
    images.into_iter().max_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)))
}

fn advice(recipe: &Recipe) -> String {
    match &recipe.from {
        From::Image(name) => format!("bake it first: kiln bake {name}"),
        From::Ami(_) => format!(
            "check `owners`, `name` and `arch` of images.{}, and the region; in the lab, bring one in with \
             `kiln lab import`",
            recipe.name
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{AmiFilter, Arch};

    /// Answers as DescribeImages does, for the filters that are used here.
    struct Account(Vec<(&'static str, Ami)>);

    impl FindImages for Account {
        async fn find_images(&self, query: &ImageQuery) -> Result<Vec<Ami>, aws::Error> {
            let fits = |ami: &Ami, name: &str, values: &[String]| match name {
                "name" => values.iter().any(|value| ami.name.starts_with(value.trim_end_matches('*'))),
                "architecture" => values.contains(&ami.arch),
                "state" => true,
                _ => {
                    let tag = name.strip_prefix("tag:").unwrap();
                    values.iter().any(|value| match value.strip_suffix('*') {
                        Some(start) => ami.tag(tag).starts_with(start),
                        None => ami.tag(tag) == value,
                    })
                }
            };
            let found = self.0.iter().filter(|(owner, ami)| {
                query.owners.iter().any(|wanted| wanted == owner)
                    && query.filters.iter().all(|(name, values)| fits(ami, name, values))
            });
            Ok(found.map(|(_, ami)| ami.clone()).collect())
        }
    }

    fn ami(id: &str, name: &str, arch: &str, created: &str, tags: &[(&str, &str)]) -> Ami {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let text = str::to_owned;
        Ami { id: text(id), name: text(name), arch: text(arch), created: text(created), tags, snapshots: vec![] }
    }

    fn account() -> Account {
        let passed = [("application", "golden"), ("gate", "passed 2026-01-01T00:00:00Z")];
        Account(vec![
            ("136693071363", ami("ami-1", "debian-12-amd64-1", "x86_64", "2026-01-01T00:00:00.000Z", &[])),
            ("136693071363", ami("ami-2", "debian-12-amd64-2", "x86_64", "2026-02-01T00:00:00.000Z", &[])),
            ("136693071363", ami("ami-3", "debian-12-arm64-3", "arm64", "2026-03-01T00:00:00.000Z", &[])),
            ("666666666666", ami("ami-4", "debian-12-amd64-4", "x86_64", "2026-04-01T00:00:00.000Z", &[])),
            ("self", ami("ami-5", "golden-1", "x86_64", "2026-05-01T00:00:00.000Z", &passed)),
            ("self", ami("ami-6", "golden-2", "x86_64", "2026-05-01T00:00:00.000Z", &passed)),
            ("self", ami("ami-7", "golden-3", "x86_64", "2026-06-01T00:00:00.000Z", &[("application", "golden")])),
        ])
    }

    fn recipe(from: From, arch: Arch) -> Recipe {
        Recipe { name: "app".into(), from, arch, ..crate::images::names::tests::recipe() }
    }

    fn ask(recipe: &Recipe) -> Result<Ami, Error> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(resolve(&account(), recipe))
    }

    fn debian(owner: &str) -> From {
        From::Ami(AmiFilter { owners: vec![owner.into()], name: "debian-12-*".into() })
    }

    #[test]
    fn pain_7_a_look_alike_of_another_owner_is_not_taken_and_the_newest_of_the_right_architecture_is() {
        assert_eq!(ask(&recipe(debian("136693071363"), Arch::X86_64)).unwrap().id, "ami-2");
        assert_eq!(ask(&recipe(debian("136693071363"), Arch::Arm64)).unwrap().id, "ami-3");
    }

    #[test]
    fn of_our_own_images_only_those_that_passed_their_gate_count() {
        assert_eq!(ask(&recipe(From::Image("golden".into()), Arch::X86_64)).unwrap().id, "ami-6");
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
