//! The images of a line: what a name on the command line stands for, and one image in all its regions.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use crate::aws::{self, Ami, Copied, Copies, FindImages, ImageQuery};
use crate::bake::Error;
use crate::bake::site::Site;
use crate::images::{Kilnfile, base};

/// The image of a name in kiln.yaml, the newest that passed; or that of an id. With it the name of its line.
///
/// # Errors
/// When there is none, or none that passed.
pub async fn find(file: &Kilnfile, site: &Site, image: &str) -> Result<(String, Ami), Error> {
    if !image.starts_with("ami-") {
        let recipe = file.image(image)?;
        let found = base::latest(&site.ec2, recipe).await?;
        let found = found.ok_or_else(|| Error::Refused(none_passed(&recipe.label, &site.name)))?;
        return Ok((recipe.name.clone(), found));
    }
    // By filter: asked for by id, an image that is not there is an error of the API.
    let query = ImageQuery { owners: vec!["self".into()], filters: vec![("image-id".into(), vec![image.into()])] };
    let found = site.ec2.find_images(&query).await?.into_iter().next();
    let found = found.ok_or_else(|| {
        Error::Refused(format!("there is no image {image} of yours in {}; see `kiln images`", site.region))
    })?;
    let name = found.tag("application").to_owned();
    if name.is_empty() || found.tag(base::KEY_TAG).is_empty() {
        return Err(Error::Refused(format!("{image} ({}) was not made by kiln", found.name)));
    }
    if !found.tag(base::GATE_TAG).starts_with("passed") {
        return Err(Error::Refused(format!("{image} ({}) did not pass its gate", found.name)));
    }
    Ok((name, found))
}

/// That a line can have stages: one image in each, and so one variant.
///
/// # Errors
/// When kiln.yaml makes several variants of the image.
pub fn has_stages(file: &Kilnfile, line: &str) -> Result<(), Error> {
    match file.variants(line) {
        Ok(variants) if variants.len() > 1 => Err(Error::Refused(format!(
            "{line} has {} variants, and a stage holds one image of a name: for stages, write an image for each \
             processor or store in kiln.yaml",
            variants.len()
        ))),
        _ => Ok(()),
    }
}

/// That a line has no image yet.
pub fn none_passed(name: &str, site: &str) -> String {
    format!("there is no image of {name} at {site} that passed its gate; bake it: kiln bake {name}")
}

/// One image in all regions that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    /// Its name, the same everywhere.
    pub name: String,
    /// By region.
    pub places: BTreeMap<String, Copied>,
}

impl Logical {
    /// A tag as the region says that comes first.
    pub fn tag(&self, region: &str, key: &str) -> &str {
        self.places.get(region).map_or("", |image| image.tag(key))
    }
}

/// The images of a line that passed, the newest last. A region that does not answer is an error: what is not
/// seen must not be decided on.
///
/// # Errors
/// When a region does not answer.
pub async fn images(places: &[(String, impl Copies)], line: &str) -> Result<Vec<Logical>, aws::Error> {
    let found = try_join_all(places.iter().map(async |(region, api)| Ok((region, api.of_line(line).await?)))).await?;
    Ok(join(found.into_iter().flat_map(|(region, images)| images.into_iter().map(move |image| (region, image)))))
}

/// Joins what has one name.
pub(super) fn join<'a>(found: impl Iterator<Item = (&'a String, Copied)>) -> Vec<Logical> {
    let mut all: BTreeMap<String, Logical> = BTreeMap::new();
    for (region, image) in found {
        let name = image.name.clone();
        let logical = all.entry(name.clone()).or_insert_with(|| Logical { name, places: BTreeMap::new() });
        logical.places.insert(region.clone(), image);
    }
    let mut all: Vec<_> = all.into_values().collect();
    // The original is the oldest of its copies.
    let made = |image: &Logical| image.places.values().map(|place| place.created.clone()).min();
    all.sort_by(|a, b| (made(a), &a.name).cmp(&(made(b), &b.name)));
    all
}
