//! The base where somebody else made it: the locked one if it is still what was locked, or the newest that fits.

use super::base::{self, Error};
use super::lock::Locked;
use super::{From, Recipe};
use crate::aws::{Ami, Bases, ImageQuery};

/// Why an image that is there, or was, is not built on.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The locked one is not there any more.
    #[error(
        "the locked base {} ({}) of {image} is gone: its owner deregistered it or shares it no more; take the newest \
         with `kiln lock {image} --update`, then bake", locked.id, locked.name
    )]
    Gone {
        /// The image to be built.
        image: String,
        /// What is locked.
        locked: Box<Locked>,
    },
    /// The locked one is not what was locked.
    #[error(
        "the locked base {id} of {image} is now {now} and was {was}: it is not the image that was locked, so nothing \
         is built on it; find out why, then take the newest with `kiln lock {image} --update`"
    )]
    Changed {
        /// The image to be built.
        image: String,
        /// The base.
        id: String,
        /// What the API says.
        now: String,
        /// What the lock says.
        was: String,
    },
    /// kiln.yaml asks for something else by now.
    #[error(
        "the locked base {} ({}) of {image} does not fit `from` in kiln.yaml any more, which asks for {asked}; take \
         one that fits with `kiln lock {image} --update`", locked.id, locked.name
    )]
    Unfit {
        /// The image to be built.
        image: String,
        /// What is locked.
        locked: Box<Locked>,
        /// What kiln.yaml says.
        asked: String,
    },
    /// A parameter leads to nothing that can be taken.
    #[error("the parameter {parameter}, from which {image} takes its base, {why}")]
    Parameter {
        /// The image to be built.
        image: String,
        /// The parameter.
        parameter: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// The newest image that `from` of this recipe stands for.
///
/// # Errors
/// When there is none, with what was asked; when a parameter leads to one that is not trusted or does not fit; and
/// when the API does not answer.
pub async fn newest(api: &impl Bases, recipe: &Recipe) -> Result<Ami, Error> {
    if let From::Ssm(parameter) = &recipe.from {
        return named_by(api, recipe, &parameter.name, &parameter.owners).await;
    }
    let query = query(recipe);
    let (images, others): (Vec<Ami>, Vec<Ami>) =
        api.find_images(&query).await?.into_iter().partition(|image| image.root_device == recipe.store.name());
    let advice = || advice(recipe, others.first());
    base::newest(images).ok_or_else(|| Error::None { image: recipe.label.clone(), query, advice: advice() })
}

/// The image that is locked, if it is what was locked and what kiln.yaml asks for.
///
/// # Errors
/// When it is not, with what is different, and when the API does not answer.
pub async fn locked(api: &impl Bases, recipe: &Recipe, locked: &Locked) -> Result<Ami, Error> {
    let image = || recipe.label.clone();
    let query = query(recipe);
    let fitting = api.known(&locked.id, &query).await?.filter(|base| {
        base.root_device == recipe.store.name() && Locked::of(recipe, base).parameter == locked.parameter
    });
    // Looked for without its owner only where something is wrong: that takes EC2 long.
    let base = match &fitting {
        Some(base) => Some(base.clone()),
        None => api.known(&locked.id, &ImageQuery::default()).await?,
    };
    let Some(base) = base else {
        return Err(Refusal::Gone { image: image(), locked: Box::new(locked.clone()) }.into());
    };
    let facts = [("owned by", &base.owner, &locked.owner), ("of", &base.created, &locked.created)];
    if let Some((what, now, was)) = facts.into_iter().find(|(_, now, was)| now != was) {
        let (now, was) = (format!("{what} {now}"), format!("{what} {was}"));
        return Err(Refusal::Changed { image: image(), id: base.id, now, was }.into());
    }
    let asked = match &recipe.from {
        From::Ssm(parameter) => format!("{}, {query}", parameter.name),
        From::Ami(_) | From::Image(_) => query.to_string(),
    };
    let unfit = || Refusal::Unfit { image: image(), locked: Box::new(locked.clone()), asked };
    fitting.ok_or_else(|| unfit().into())
}

/// The image whose id the parameter holds. Whoever writes the parameter chooses the image, so that it is looked at
/// as closely as one that was found by its name.
async fn named_by(api: &impl Bases, recipe: &Recipe, parameter: &str, owners: &[String]) -> Result<Ami, Error> {
    let refuse = |why: String| {
        Error::from(Refusal::Parameter { image: recipe.label.clone(), parameter: parameter.to_owned(), why })
    };
    let Some(id) = api.parameter(parameter).await? else {
        return Err(refuse(format!("is not there: check `ssm` of images.{}, and the region", recipe.name)));
    };
    if !id.starts_with("ami-") {
        // The value may be a secret that somebody named by mistake.
        return Err(refuse("does not hold the id of an image: name one that holds ami-… alone".to_owned()));
    }
    if let Some(base) = api.known(&id, &query(recipe)).await?
        && base.root_device == recipe.store.name()
    {
        return Ok(base);
    }
    let Some(base) = api.known(&id, &ImageQuery::default()).await? else {
        return Err(refuse(format!("names {id}, which is not there or not shared with this account")));
    };
    let what = format!("names {id} ({}), ", base.name);
    Err(refuse(if base.arch != recipe.arch.name() {
        format!("{what}which is for {} and not for {}", base.arch, recipe.arch.name())
    } else if base.root_device != recipe.store.name() {
        format!("{what}whose root lies on {} and not on {}", base.root_device, recipe.store.name())
    } else {
        format!(
            "{what}which belongs to {} and is not available from an owner that images.{} trusts ({})",
            base.owner,
            recipe.name,
            owners.join(", ")
        )
    }))
}

/// What DescribeImages is asked. What the root lies on is no part of it, because not every emulator knows that filter.
fn query(recipe: &Recipe) -> ImageQuery {
    let mut filters = Vec::new();
    let owners = match &recipe.from {
        From::Image(_) => vec!["self".to_owned()],
        From::Ssm(parameter) => parameter.owners.clone(),
        From::Ami(filter) => {
            filters.push(("name".to_owned(), vec![filter.name.clone()]));
            filters.extend(filter.tags.iter().map(|(key, value)| (format!("tag:{key}"), vec![value.clone()])));
            filter.owners.clone()
        }
    };
    filters.push(("state".to_owned(), vec!["available".to_owned()]));
    filters.push(("architecture".to_owned(), vec![recipe.arch.name().to_owned()]));
    ImageQuery { owners, filters }
}

/// What to do where nothing fits; `other` is an image of which nothing but the store does not fit.
fn advice(recipe: &Recipe, other: Option<&Ami>) -> String {
    if let Some(Ami { name, root_device, .. }) = other {
        let store = recipe.store.name();
        return format!(
            "{name} would, but its root lies on {root_device} and not on {store}: see `store` of images.{}",
            recipe.name
        );
    }
    let tags = match &recipe.from {
        From::Ami(filter) if !filter.tags.is_empty() => {
            "; EC2 shows the tags of an image to its own account alone, so `tags` fit nobody else's"
        }
        _ => "",
    };
    format!(
        "check `owners`, `name` and `arch` of images.{}, and the region{tags}; in the lab, bring one in with `kiln lab \
         import`",
        recipe.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::base::tests::{Account, DEBIAN, SELF, STRANGER, account, block_on, debian, recipe};
    use crate::images::{AmiFilter, Arch, Parameter, Store};

    fn ssm(name: &str, owner: &str) -> Recipe {
        recipe(From::Ssm(Parameter { name: name.into(), owners: vec![owner.into()] }), Arch::X86_64)
    }

    fn ask(recipe: &Recipe) -> Result<Ami, Error> {
        block_on(newest(&account(), recipe))
    }

    #[test]
    fn tags_choose_among_the_images_of_an_owner() {
        let tagged = |value: &str| {
            let tags = [("line".to_owned(), value.to_owned())].into();
            recipe(From::Ami(AmiFilter { owners: vec![DEBIAN.into()], name: "*".into(), tags }), Arch::X86_64)
        };
        assert_eq!(ask(&tagged("l?s")).unwrap().id, "ami-2");
        let error = ask(&tagged("other")).unwrap_err().to_string();
        assert!(error.contains("tag:line other") && error.contains("to its own account alone"), "{error}");
    }

    #[test]
    fn an_image_on_another_store_is_not_taken_and_told() {
        let account = account();
        account.images.borrow_mut().retain(|image| image.id == "ami-9");
        let error = block_on(newest(&account, &recipe(debian(DEBIAN), Arch::X86_64))).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "debian-12-amd64-9 would, but its root lies on instance-store and not on ebs: see `store` of images.app"
            ),
            "{error}"
        );
        let stored = Recipe { store: Store::InstanceStore, ..recipe(debian(DEBIAN), Arch::X86_64) };
        assert_eq!(block_on(newest(&account, &stored)).unwrap().id, "ami-9");
    }

    #[test]
    fn a_parameter_leads_to_an_image_of_a_trusted_owner_alone() {
        assert_eq!(ask(&ssm("/d/12", DEBIAN)).unwrap().id, "ami-1");
        for (parameter, owner, expected) in [
            (
                "/d/evil",
                DEBIAN,
                "names ami-4 (debian-12-amd64-4), which belongs to 666666666666 and is not available from an owner that images.app trusts (136693071363)",
            ),
            ("/d/arm", DEBIAN, "names ami-3 (debian-12-arm64-3), which is for arm64 and not for x86_64"),
            ("/d/x", DEBIAN, "does not hold the id of an image: name one that holds ami-… alone"),
            ("/d/13", DEBIAN, "is not there: check `ssm` of images.app, and the region"),
        ] {
            let error = ask(&ssm(parameter, owner)).unwrap_err().to_string();
            assert_eq!(error, format!("the parameter {parameter}, from which app takes its base, {expected}"));
        }
    }

    /// What comes of a lock on the older Debian after something has changed.
    fn with_lock(recipe: &Recipe, change: impl FnOnce(&Account, &mut Locked)) -> Result<Ami, Error> {
        let account = account();
        let mut lock = Locked::of(recipe, &account.images.borrow()[0]);
        change(&account, &mut lock);
        block_on(locked(&account, recipe, &lock))
    }

    #[test]
    fn the_locked_image_is_taken_though_there_is_a_newer_one() {
        assert_eq!(with_lock(&recipe(debian(DEBIAN), Arch::X86_64), |_, _| {}).unwrap().id, "ami-1");
        assert_eq!(with_lock(&ssm("/d/arm", DEBIAN), |_, _| {}).unwrap().id, "ami-1", "whatever it names now");
    }

    #[test]
    fn a_locked_image_that_is_not_what_was_locked_is_refused_with_what_to_do() {
        let app = recipe(debian(DEBIAN), Arch::X86_64);
        let said =
            |recipe: &Recipe, change: fn(&Account, &mut Locked)| with_lock(recipe, change).unwrap_err().to_string();
        assert_eq!(
            said(&app, |account, _| drop(account.images.borrow_mut().remove(0))),
            "the locked base ami-1 (debian-12-amd64-1) of app is gone: its owner deregistered it or shares it no more; \
             take the newest with `kiln lock app --update`, then bake"
        );
        assert_eq!(
            said(&app, |account, _| account.images.borrow_mut()[0].owner = STRANGER.into()),
            "the locked base ami-1 of app is now owned by 666666666666 and was owned by 136693071363: it is not the \
             image that was locked, so nothing is built on it; find out why, then take the newest with `kiln lock app \
             --update`"
        );
        let created = said(&app, |_, lock| lock.created = "2025-01-01T00:00:00.000Z".into());
        assert!(
            created.contains("is now of 2026-01-01T00:00:00.000Z and was of 2025-01-01T00:00:00.000Z"),
            "{created}"
        );
        let unfit = said(&recipe(debian(SELF), Arch::X86_64), |_, _| {});
        assert!(
            unfit.contains("does not fit `from` in kiln.yaml any more, which asks for owners 123456789012"),
            "{unfit}"
        );
        let moved = said(&ssm("/d/13", DEBIAN), |_, lock| lock.parameter = Some("/d/12".into()));
        assert!(moved.contains("which asks for /d/13, owners 136693071363"), "{moved}");
        let store = said(&app, |account, _| account.images.borrow_mut()[0].root_device = "instance-store".into());
        assert!(store.contains("does not fit"), "{store}");
    }
}
