//! Who launches an image: launch templates, auto scaling groups and their instances.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_autoscaling::types::LaunchTemplateSpecification;
use aws_sdk_ec2::types::{RequestLaunchTemplateData, SummaryStatus, Tag};

use super::ec2::{Ec2, refused};
use super::{Error, filter};
use crate::packer::RUN_TAG;

/// A launch template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// `lt-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A version of a launch template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateVersion {
    /// Its number.
    pub number: i64,
    /// The image that it launches.
    pub image: String,
}

/// An auto scaling group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its launch template by id, and the version: a number, `$Latest` or `$Default`. None when it launches
    /// by other means.
    pub template: Option<(String, String)>,
    /// Whether it mixes kinds of instances, which makes the version a part of a larger policy.
    pub mixed: bool,
    /// The instances that it holds for ill.
    pub unhealthy: Vec<String>,
}

/// An instance of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`.
    pub id: String,
    /// `pending`, `running`, `shutting-down`, …
    pub state: String,
    /// Why it is in that state, where the API says so.
    pub why: String,
    /// Whether a status check of the API fails.
    pub impaired: bool,
}

/// Launch templates and instances of one region.
pub trait Fleet {
    /// A launch template by its name or id.
    fn template(&self, name: &str) -> impl Future<Output = Result<Option<Template>, Error>>;

    /// A version of it: a number, `$Latest` or `$Default`.
    fn version(&self, id: &str, version: &str) -> impl Future<Output = Result<Option<TemplateVersion>, Error>>;

    /// Adds a version like another, with another image if one is given, and gives its number.
    fn add_version(
        &self,
        id: &str,
        like: i64,
        image: Option<&str>,
        text: &str,
    ) -> impl Future<Output = Result<i64, Error>>;

    /// Makes a version the default.
    fn set_default(&self, id: &str, version: i64) -> impl Future<Output = Result<(), Error>>;

    /// Writes a tag on a template, or takes it away.
    fn mark(&self, id: &str, key: &str, value: Option<&str>) -> impl Future<Output = Result<(), Error>>;

    /// The instances of an image that were launched since, those too that were just terminated, but for those
    /// that a bake launched.
    fn instances(&self, image: &str, since: jiff::Timestamp) -> impl Future<Output = Result<Vec<Instance>, Error>>;
}

/// Auto scaling groups of one region.
pub trait Scaling {
    /// A group.
    fn group(&self, name: &str) -> impl Future<Output = Result<Option<Group>, Error>>;

    /// Has a group launch by this version of its launch template.
    fn launch_by(&self, group: &str, template: &str, version: i64) -> impl Future<Output = Result<(), Error>>;
}

/// EC2 Auto Scaling in one region.
pub struct Groups {
    client: aws_sdk_autoscaling::Client,
    at: String,
}

impl Groups {
    pub(super) fn from(config: &SdkConfig, at: String) -> Groups {
        Groups { client: aws_sdk_autoscaling::Client::new(config), at }
    }
}

impl Scaling for Groups {
    async fn group(&self, name: &str) -> Result<Option<Group>, Error> {
        let found = self.client.describe_auto_scaling_groups().auto_scaling_group_names(name).send().await;
        let found = found.map_err(|error| refused(&self.at, "DescribeAutoScalingGroups", &error))?;
        let Some(group) = found.auto_scaling_groups().first() else { return Ok(None) };
        let mixed = group.mixed_instances_policy().and_then(|policy| policy.launch_template());
        let mixed = mixed.and_then(|template| template.launch_template_specification());
        let template = group.launch_template().or(mixed).and_then(|template| {
            let version = template.version().unwrap_or("$Default");
            Some((template.launch_template_id()?.to_owned(), version.to_owned()))
        });
        let ill = group.instances().iter().filter(|instance| instance.health_status() == Some("Unhealthy"));
        let unhealthy = ill.filter_map(|instance| instance.instance_id().map(str::to_owned)).collect();
        Ok(Some(Group { template, mixed: mixed.is_some(), unhealthy }))
    }

    async fn launch_by(&self, group: &str, template: &str, version: i64) -> Result<(), Error> {
        let template = LaunchTemplateSpecification::builder().launch_template_id(template).version(version.to_string());
        let call = self.client.update_auto_scaling_group().auto_scaling_group_name(group);
        let sent = call.launch_template(template.build()).send().await;
        sent.map(drop).map_err(|error| refused(&self.at, "UpdateAutoScalingGroup", &error))
    }
}

impl Fleet for Ec2 {
    async fn template(&self, name: &str) -> Result<Option<Template>, Error> {
        let call = self.client.describe_launch_templates();
        // By filter where there is one: asked for by name or id, a template that is not there is an error.
        let call = match name.strip_prefix("lt-") {
            Some(_) => call.launch_template_ids(name),
            None => call.filters(filter("launch-template-name", &[name])),
        };
        let found = match call.send().await {
            Err(error) if error.as_service_error().is_some_and(is_unknown) => return Ok(None),
            found => found.map_err(|error| self.error("DescribeLaunchTemplates", &error))?,
        };
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let Some(template) = found.launch_templates().first() else { return Ok(None) };
        let id = text(template.launch_template_id());
        // Asked for by themselves: an emulator tells only those tags with a template that it was made with.
        let tags = self.client.describe_tags().filters(filter("resource-id", &[&id])).send().await;
        let tags = tags.map_err(|error| self.error("DescribeTags", &error))?;
        let tags = tags.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect();
        Ok(Some(Template { id, name: text(template.launch_template_name()), tags }))
    }

    async fn version(&self, id: &str, version: &str) -> Result<Option<TemplateVersion>, Error> {
        let call = self.client.describe_launch_template_versions().launch_template_id(id).versions(version);
        let found = call.send().await.map_err(|error| self.error("DescribeLaunchTemplateVersions", &error))?;
        Ok(found.launch_template_versions().first().map(|version| TemplateVersion {
            number: version.version_number().unwrap_or_default(),
            image: version.launch_template_data().and_then(|data| data.image_id()).unwrap_or_default().to_owned(),
        }))
    }

    async fn add_version(&self, id: &str, like: i64, image: Option<&str>, text: &str) -> Result<i64, Error> {
        let data = RequestLaunchTemplateData::builder().set_image_id(image.map(str::to_owned)).build();
        let call = self.client.create_launch_template_version().launch_template_id(id);
        let call = call.source_version(like.to_string()).version_description(text).launch_template_data(data);
        let made = call.send().await.map_err(|error| self.error("CreateLaunchTemplateVersion", &error))?;
        Ok(made.launch_template_version().and_then(|version| version.version_number()).unwrap_or_default())
    }

    async fn set_default(&self, id: &str, version: i64) -> Result<(), Error> {
        let call = self.client.modify_launch_template().launch_template_id(id);
        let sent = call.default_version(version.to_string()).send().await;
        sent.map(drop).map_err(|error| self.error("ModifyLaunchTemplate", &error))
    }

    async fn mark(&self, id: &str, key: &str, value: Option<&str>) -> Result<(), Error> {
        match value {
            Some(value) => self.tag(id, &[(key, value)]).await,
            None => {
                let sent = self.client.delete_tags().resources(id).tags(Tag::builder().key(key).build()).send().await;
                sent.map(drop).map_err(|error| self.error("DeleteTags", &error))
            }
        }
    }

    async fn instances(&self, image: &str, since: jiff::Timestamp) -> Result<Vec<Instance>, Error> {
        // The API counts in whole seconds.
        let since = since.as_second();
        let mut pages = self.client.describe_instances().filters(filter("image-id", &[image])).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error("DescribeInstances", &error))?;
            for instance in page.reservations().iter().flat_map(|reservation| reservation.instances()) {
                let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
                let of_a_bake = instance.tags().iter().any(|tag| tag.key() == Some(RUN_TAG));
                if of_a_bake || instance.launch_time().is_some_and(|time| time.secs() < since) {
                    continue;
                }
                found.push(Instance {
                    id: text(instance.instance_id()),
                    state: text(instance.state().and_then(|state| state.name()).map(|name| name.as_str())),
                    why: text(instance.state_reason().and_then(|reason| reason.message())),
                    impaired: false,
                });
            }
        }
        let impaired = [SummaryStatus::Impaired];
        for instance in found.iter_mut().filter(|instance| instance.state == "running") {
            let status = self.client.describe_instance_status().instance_ids(&instance.id).send().await;
            let status = status.map_err(|error| self.error("DescribeInstanceStatus", &error))?;
            instance.impaired = status.instance_statuses().iter().any(|status| {
                let checks = [status.instance_status(), status.system_status()];
                checks.iter().flatten().any(|check| check.status().is_some_and(|status| impaired.contains(status)))
            });
        }
        Ok(found)
    }
}

fn is_unknown(error: &impl aws_sdk_ec2::error::ProvideErrorMetadata) -> bool {
    error.code().is_some_and(|code| code.starts_with("InvalidLaunchTemplate"))
}
