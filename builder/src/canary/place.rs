//! The launch template of a canary, alone or that of an auto scaling group.

use std::fmt;

use super::{Record, TAG};
use crate::aws::{Fleet, Scaling, Template, TemplateVersion};
use crate::bake::Error;
use crate::bake::site::Site;

/// How a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// An auto scaling group.
    Group(String),
    /// A launch template by its name or id. Whoever launches by its default version is meant.
    Template(String),
}

/// Where a canary lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The launch template.
    pub template: Template,
    /// The group, if it is that of one.
    pub group: Option<String>,
    /// How the version is named where it is used: a number, `$Latest` or `$Default`.
    pub by: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "auto scaling group {group}"),
            None => write!(f, "launch template {}", self.template.name),
        }
    }
}

impl Place {
    /// Looks it up.
    ///
    /// # Errors
    /// When there is none of that name, or it launches in a way that a canary cannot change.
    pub async fn find(site: &Site, which: &Which) -> Result<Place, Error> {
        Place::find_at(&site.ec2, &site.door.groups(&site.region).await, which, &site.region).await
    }

    pub(super) async fn find_at(
        fleet: &impl Fleet,
        groups: &impl Scaling,
        which: &Which,
        region: &str,
    ) -> Result<Place, Error> {
        let refused = |why: String| Err(Error::Refused(why));
        let (id, group, by) = match which {
            Which::Template(name) => (name.clone(), None, "$Default".to_owned()),
            Which::Group(name) => {
                let Some(group) = groups.group(name).await? else {
                    return refused(format!("there is no auto scaling group {name} in {region}"));
                };
                let Some((id, by)) = group.template else {
                    return refused(format!(
                        "auto scaling group {name} launches by no launch template: give it one first (AWS ends launch \
                         configurations)"
                    ));
                };
                if group.mixed && !by.starts_with('$') {
                    return refused(format!(
                        "auto scaling group {name} mixes instances by version {by}: set $Default or $Latest there"
                    ));
                }
                (id, Some(name.clone()), by)
            }
        };
        match fleet.template(&id).await? {
            Some(template) => Ok(Place { template, group, by }),
            None => refused(format!("there is no launch template {id} in {region}")),
        }
    }

    /// What is being tried here.
    ///
    /// # Errors
    /// When the record is none of ours, and when it is that of another place with the same launch template: the way
    /// back from there is none from here.
    pub fn record(&self) -> Result<Option<Record>, Error> {
        let Some(text) = self.template.tags.get(TAG) else { return Ok(None) };
        let name = &self.template.name;
        let record: Record = serde_json::from_str(text).map_err(|error| {
            Error::Refused(format!("the tag {TAG} of launch template {name} is no record of kiln ({error}): remove it"))
        })?;
        if record.group == self.group {
            return Ok(Some(record));
        }
        let owner = Place { group: record.group, ..self.clone() };
        Err(Error::Refused(format!(
            "the canary that is under way by launch template {name} is that of {owner}: name it"
        )))
    }

    /// That this is being tried here.
    ///
    /// # Errors
    /// When it is not any more: what is there then is not to be ended.
    pub(super) fn still(&self, record: &Record) -> Result<(), Error> {
        match self.record()? {
            Some(now) if now == *record => Ok(()),
            _ => Err(Error::Refused(format!("somebody else has ended the canary of {} in {self}", record.image))),
        }
    }

    /// That nothing is being tried here.
    pub(super) fn nothing(&self) -> Error {
        Error::Refused(format!("no canary is under way in {self}; begin one with `kiln canary start`"))
    }

    /// A version of the template.
    pub(super) async fn used(&self, fleet: &impl Fleet, version: &str) -> Result<TemplateVersion, Error> {
        let found = fleet.version(&self.template.id, version).await?;
        let name = &self.template.name;
        found.ok_or_else(|| Error::Refused(format!("launch template {name} has no version {version}")))
    }

    /// Has new instances take a version, by whatever name they take it. The latest they take by themselves.
    pub(super) async fn launch_by(
        &self,
        fleet: &impl Fleet,
        groups: &impl Scaling,
        by: &str,
        number: i64,
    ) -> Result<(), Error> {
        match (by, &self.group) {
            ("$Latest", _) => {}
            (_, Some(group)) if by != "$Default" => groups.launch_by(group, &self.template.id, number).await?,
            _ => fleet.set_default(&self.template.id, number).await?,
        }
        Ok(())
    }
}
