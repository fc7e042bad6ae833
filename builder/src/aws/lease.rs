//! Names that only one can have: EC2's launch templates.
//!
//! Two images' bakes on machines that know nothing of each other need something that is made once or
//! not at all, and taken away by an id that is never given again. A launch template is both, and it
//! costs nothing.

use std::collections::BTreeMap;

use aws_sdk_ec2::error::ProvideErrorMetadata;
use aws_sdk_ec2::types::{
    LaunchTemplate, LaunchTemplateTagSpecificationRequest, RequestLaunchTemplateData, ResourceType, Tag,
    TagSpecification,
};

use super::ec2::Ec2;
use super::{Error, filter};

/// A name that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it is taken away by; never given twice.
    pub id: String,
    /// What the holder says of itself.
    pub tags: BTreeMap<String, String>,
}

impl Held {
    /// The value of a tag; empty when it has none.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }
}

/// Holding names.
pub trait Leases {
    /// Takes a name. None when somebody has it.
    fn take(&self, name: &str, tags: &BTreeMap<String, String>) -> impl Future<Output = Result<Option<String>, Error>>;

    /// Who has a name.
    fn held(&self, name: &str) -> impl Future<Output = Result<Option<Held>, Error>>;

    /// The names that holders with this tag have.
    fn held_with(&self, tag: (&str, &str)) -> impl Future<Output = Result<Vec<Held>, Error>>;

    /// Says something new of oneself.
    fn renew(&self, id: &str, tag: (&str, &str)) -> impl Future<Output = Result<(), Error>>;

    /// Lets a name go. It is no error when it has gone already.
    fn release(&self, id: &str) -> impl Future<Output = Result<(), Error>>;
}

impl Ec2 {
    async fn templates(&self, by: &str, value: &str) -> Result<Vec<Held>, Error> {
        let found = self.client.describe_launch_templates().filters(filter(by, &[value])).send().await;
        let found = found.map_err(|error| self.error("DescribeLaunchTemplates", &error))?;
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let held = |template: &LaunchTemplate| Held {
            id: text(template.launch_template_id()),
            tags: template.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect(),
        };
        Ok(found.launch_templates().iter().map(held).collect())
    }
}

impl Leases for Ec2 {
    async fn take(&self, name: &str, tags: &BTreeMap<String, String>) -> Result<Option<String>, Error> {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let tags = TagSpecification::builder().resource_type(ResourceType::LaunchTemplate).set_tags(Some(tags)).build();
        // A template must say something; nobody launches from this one.
        let about = Tag::builder().key("Name").value(name).build();
        let about = LaunchTemplateTagSpecificationRequest::builder().resource_type(ResourceType::Instance).tags(about);
        let data = RequestLaunchTemplateData::builder().tag_specifications(about.build()).build();
        let call = self.client.create_launch_template().launch_template_name(name);
        match call.launch_template_data(data).tag_specifications(tags).send().await {
            Ok(made) => {
                let id = made.launch_template().and_then(|template| template.launch_template_id());
                Ok(id.map(str::to_owned))
            }
            Err(error) if error.code() == Some("InvalidLaunchTemplateName.AlreadyExistsException") => Ok(None),
            Err(error) => Err(self.error("CreateLaunchTemplate", &error)),
        }
    }

    async fn held(&self, name: &str) -> Result<Option<Held>, Error> {
        // By filter: asked for by name, a template that is not there is an error.
        Ok(self.templates("launch-template-name", name).await?.into_iter().next())
    }

    async fn held_with(&self, (key, value): (&str, &str)) -> Result<Vec<Held>, Error> {
        self.templates(&format!("tag:{key}"), value).await
    }

    async fn renew(&self, id: &str, tag: (&str, &str)) -> Result<(), Error> {
        self.tag(id, &[tag]).await
    }

    async fn release(&self, id: &str) -> Result<(), Error> {
        match self.client.delete_launch_template().launch_template_id(id).send().await {
            Err(error) if error.code().is_some_and(|code| code.starts_with("InvalidLaunchTemplate")) => Ok(()),
            sent => sent.map(drop).map_err(|error| self.error("DeleteLaunchTemplate", &error)),
        }
    }
}
