//! One image in many regions: copies, who may use them, how long they are offered.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{
    Image, ImageAttributeName, ImageState, LaunchPermission, LaunchPermissionModifications, OperationType,
    ResourceType, SnapshotAttributeName, Tag, TagSpecification,
};

use super::ec2::Ec2;
use super::{Error, filter};
use crate::images::base;

/// An image as it stands in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// `ami-…`, another in every region.
    pub id: String,
    /// Its name, the same in every region.
    pub name: String,
    /// What may be done with it.
    pub state: State,
    /// When it was made, in RFC 3339.
    pub created: String,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The snapshots below it.
    pub snapshots: Vec<String>,
    /// When it ceases to be offered, in RFC 3339; none for never.
    pub deprecated: Option<String>,
    /// Whether the API says that something of it is not encrypted.
    pub plain: bool,
}

impl Copied {
    /// The value of a tag; empty when it has none.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }
}

/// What may be done with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be launched.
    Available,
    /// It will be.
    Pending,
    /// It never will be, and why.
    Failed(String),
}

/// A copy to be made.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The image to copy and its region.
    pub from: (&'a str, &'a str),
    /// The name of the copy.
    pub name: &'a str,
    /// Its description.
    pub description: &'a str,
    /// The key to encrypt it with; without one it is as the original.
    pub key: Option<&'a str>,
    /// Its first tags, for accounts in which nothing may be made without.
    pub tags: &'a BTreeMap<String, String>,
    /// Asked for twice with the same token, the API makes one copy.
    pub token: &'a str,
}

/// Copies of images in one region.
pub trait Copies {
    /// Our own images of this name, in whatever state. The API's promise is that there is one at most.
    fn named(&self, name: &str) -> impl Future<Output = Result<Vec<Copied>, Error>>;

    /// The images of a line that passed their gate.
    fn of_line(&self, application: &str) -> impl Future<Output = Result<Vec<Copied>, Error>>;

    /// Begins to make a copy and gives its id.
    fn order(&self, order: Order<'_>) -> impl Future<Output = Result<String, Error>>;

    /// Waits until an image is available.
    fn available(&self, id: &str) -> impl Future<Output = Result<(), Error>>;

    /// Takes away a copy that failed.
    fn discard(&self, id: &str) -> impl Future<Output = Result<(), Error>>;

    /// Writes tags.
    fn label(&self, ids: &[&str], tags: &BTreeMap<String, String>) -> impl Future<Output = Result<(), Error>>;

    /// The accounts that may launch an image and read all of its snapshots.
    fn shared(&self, image: &Copied) -> impl Future<Output = Result<BTreeSet<String>, Error>>;

    /// Lets accounts launch an image and read its snapshots.
    fn share(&self, image: &Copied, accounts: &[String]) -> impl Future<Output = Result<(), Error>>;

    /// Sets when an image ceases to be offered.
    fn deprecate(&self, id: &str, at: jiff::Timestamp) -> impl Future<Output = Result<(), Error>>;
}

fn copied(image: &Image) -> Copied {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let snapshots = image.block_device_mappings().iter().filter_map(|device| device.ebs()?.snapshot_id());
    Copied {
        id: text(image.image_id()),
        name: text(image.name()),
        state: match image.state() {
            Some(ImageState::Available) => State::Available,
            Some(ImageState::Pending | ImageState::Transient) => State::Pending,
            state => {
                let why = image.state_reason().and_then(|reason| reason.message());
                let word = state.map_or("in no state", ImageState::as_str);
                State::Failed(why.map_or_else(|| word.to_owned(), |why| format!("{word}: {why}")))
            }
        },
        created: text(image.creation_date()),
        description: text(image.description()),
        tags: image.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect(),
        snapshots: snapshots.map(str::to_owned).collect(),
        deprecated: image.deprecation_time().map(str::to_owned),
        plain: image
            .block_device_mappings()
            .iter()
            .any(|device| device.ebs().is_some_and(|ebs| ebs.encrypted() == Some(false))),
    }
}

fn tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

impl Ec2 {
    async fn own(&self, filters: &[(&str, &str)]) -> Result<Vec<Copied>, Error> {
        let filters = filters.iter().map(|(name, value)| filter(name, &[value])).collect();
        // An image past its deprecation is ours all the same.
        let call = self.client.describe_images().owners("self").include_deprecated(true).set_filters(Some(filters));
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(page.map_err(|error| self.error("DescribeImages", &error))?.images().iter().map(copied));
        }
        Ok(found)
    }
}

impl Copies for Ec2 {
    async fn named(&self, name: &str) -> Result<Vec<Copied>, Error> {
        self.own(&[("name", name)]).await
    }

    async fn of_line(&self, application: &str) -> Result<Vec<Copied>, Error> {
        let gate = format!("tag:{}", base::GATE_TAG);
        self.own(&[("tag:application", application), (&gate, "passed*"), ("state", "available")]).await
    }

    async fn order(&self, order: Order<'_>) -> Result<String, Error> {
        let labels = |kind| TagSpecification::builder().resource_type(kind).set_tags(Some(tags(order.tags))).build();
        let (image, region) = order.from;
        let call = self.client.copy_image().source_image_id(image).source_region(region).name(order.name);
        let call = call.description(order.description).client_token(order.token);
        let call = call.tag_specifications(labels(ResourceType::Image));
        let call = call.tag_specifications(labels(ResourceType::Snapshot));
        let call = match order.key {
            Some(key) => call.encrypted(true).kms_key_id(key),
            None => call,
        };
        let answer = call.send().await.map_err(|error| self.error("CopyImage", &error))?;
        Ok(answer.image_id().unwrap_or_default().to_owned())
    }

    async fn available(&self, id: &str) -> Result<(), Error> {
        self.until_available(id).await
    }

    async fn discard(&self, id: &str) -> Result<(), Error> {
        let sent = self.client.deregister_image().image_id(id).send().await;
        sent.map(drop).map_err(|error| self.error("DeregisterImage", &error))
    }

    async fn label(&self, ids: &[&str], labels: &BTreeMap<String, String>) -> Result<(), Error> {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let sent = self.client.create_tags().set_resources(Some(ids)).set_tags(Some(tags(labels))).send().await;
        sent.map(drop).map_err(|error| self.error("CreateTags", &error))
    }

    async fn shared(&self, image: &Copied) -> Result<BTreeSet<String>, Error> {
        let call = self.client.describe_image_attribute().image_id(&image.id);
        let answer = call.attribute(ImageAttributeName::LaunchPermission).send().await;
        let answer = answer.map_err(|error| self.error("DescribeImageAttribute", &error))?;
        let may = answer.launch_permissions().iter().filter_map(|permission| permission.user_id());
        let mut may: BTreeSet<_> = may.map(str::to_owned).collect();
        for snapshot in &image.snapshots {
            let call = self.client.describe_snapshot_attribute().snapshot_id(snapshot);
            let answer = call.attribute(SnapshotAttributeName::CreateVolumePermission).send().await;
            let answer = answer.map_err(|error| self.error("DescribeSnapshotAttribute", &error))?;
            let readers = answer.create_volume_permissions();
            may.retain(|account| readers.iter().any(|reader| reader.user_id() == Some(account)));
        }
        Ok(may)
    }

    async fn share(&self, image: &Copied, accounts: &[String]) -> Result<(), Error> {
        // Snapshots first: whoever may launch must find what to launch from.
        for snapshot in &image.snapshots {
            let call = self.client.modify_snapshot_attribute().snapshot_id(snapshot);
            let call = call.attribute(SnapshotAttributeName::CreateVolumePermission);
            let call = call.operation_type(OperationType::Add).set_user_ids(Some(accounts.to_vec()));
            call.send().await.map_err(|error| self.error("ModifySnapshotAttribute", &error))?;
        }
        let add = accounts.iter().map(|account| LaunchPermission::builder().user_id(account).build()).collect();
        let add = LaunchPermissionModifications::builder().set_add(Some(add)).build();
        let sent = self.client.modify_image_attribute().image_id(&image.id).launch_permission(add).send().await;
        sent.map(drop).map_err(|error| self.error("ModifyImageAttribute", &error))
    }

    async fn deprecate(&self, id: &str, at: jiff::Timestamp) -> Result<(), Error> {
        let call = self.client.enable_image_deprecation().image_id(id);
        let sent = call.deprecate_at(DateTime::from_secs(at.as_second())).send().await;
        sent.map(drop).map_err(|error| self.error("EnableImageDeprecation", &error))
    }
}
