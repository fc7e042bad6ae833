//! EC2 through the AWS SDK.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::client::Waiters;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{Filter, Image, Tag};

use super::{Ami, Error, FindImages, ImageQuery, Reap, Run, Thing};
use crate::packer::{RUN_TAG, key_pairs};

/// How long an image may take to become available: a large volume's snapshot takes that long.
const AVAILABLE: Duration = Duration::from_secs(3600);
/// How long an instance may take to be gone.
const TERMINATION: Duration = Duration::from_secs(300);

/// One region of EC2.
pub struct Ec2 {
    pub(super) client: Client,
    /// For clients of other services at the same place.
    pub(super) config: SdkConfig,
    at: String,
}

impl Ec2 {
    pub(super) fn from(config: &SdkConfig, at: String) -> Ec2 {
        Ec2 { client: Client::new(config), config: config.clone(), at }
    }

    /// The region the client ended up with.
    pub fn region(&self) -> Option<String> {
        self.client.config().region().map(ToString::to_string)
    }

    /// Adds tags to one thing.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn tag(&self, id: &str, tags: &[(&str, &str)]) -> Result<(), Error> {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        let sent = self.client.create_tags().resources(id).set_tags(Some(tags)).send().await;
        sent.map(drop).map_err(|error| self.error("CreateTags", &error))
    }

    /// Waits until an image is available.
    ///
    /// # Errors
    /// When it fails, is taken away, or takes more than an hour.
    pub async fn until_available(&self, id: &str) -> Result<(), Error> {
        let waited = self.client.wait_until_image_available().image_ids(id).wait(AVAILABLE).await;
        waited.map(drop).map_err(|error| Error {
            call: "DescribeImages",
            at: self.at.clone(),
            reason: format!("{id} does not become available: {}", plain(&DisplayErrorContext(error).to_string())),
        })
    }

    /// Of an answer that is none.
    pub(super) fn unexpected(&self, call: &'static str, reason: &str) -> Error {
        Error { call, at: self.at.clone(), reason: reason.to_owned() }
    }

    pub(super) fn error<E, R>(&self, call: &'static str, error: &SdkError<E, R>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
        SdkError<E, R>: ProvideErrorMetadata,
    {
        refused(&self.at, call, error)
    }
}

/// A call that failed, as a sentence can say it.
pub(super) fn refused<E, R>(at: &str, call: &'static str, error: &SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
    SdkError<E, R>: ProvideErrorMetadata,
{
    let reason = match (ProvideErrorMetadata::code(error), ProvideErrorMetadata::message(error)) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => plain(&DisplayErrorContext(error).to_string()),
    };
    Error { call, at: at.to_owned(), reason }
}

/// The SDK's chain of causes without the debug form behind it.
fn plain(context: &str) -> String {
    let text = context.split(" (").next().unwrap_or(context).trim();
    if context.contains("CredentialsNotLoaded") || context.contains("no providers in chain provided credentials") {
        return "no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned();
    }
    text.to_owned()
}

pub(super) fn filter(name: &str, values: &[impl AsRef<str>]) -> Filter {
    let values = values.iter().map(|value| value.as_ref().to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

pub(super) fn ami(image: &Image) -> Ami {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let tags = image.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect();
    let snapshots = image.block_device_mappings().iter().filter_map(|device| device.ebs()?.snapshot_id());
    Ami {
        id: text(image.image_id()),
        name: text(image.name()),
        owner: text(image.owner_id()),
        root_device: image.root_device_type().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        arch: image.architecture().map(|arch| arch.as_str().to_owned()).unwrap_or_default(),
        created: text(image.creation_date()),
        tags,
        snapshots: snapshots.map(str::to_owned).collect(),
    }
}

impl FindImages for Ec2 {
    async fn find_images(&self, query: &ImageQuery) -> Result<Vec<Ami>, Error> {
        let mut pages = self
            .client
            .describe_images()
            .set_owners(Some(query.owners.clone()))
            .set_filters(Some(query.filters.iter().map(|(name, values)| filter(name, values)).collect()))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error("DescribeImages", &error))?;
            found.extend(page.images().iter().map(ami));
        }
        Ok(found)
    }
}

impl Reap for Ec2 {
    async fn of_run(&self, run: Run<'_>) -> Result<Vec<Thing>, Error> {
        let tagged = format!("tag:{RUN_TAG}");
        let mut things = Vec::new();
        // One that is on its way out holds its security group still, and is waited for.
        let alive = ["pending", "running", "stopping", "stopped", "shutting-down"];
        let mut pages = self
            .client
            .describe_instances()
            .filters(filter(&tagged, &[run.id]))
            .filters(filter("instance-state-name", &alive))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error("DescribeInstances", &error))?;
            let instances = page.reservations().iter().flat_map(|reservation| reservation.instances());
            things.extend(instances.filter_map(|instance| Some(Thing::Instance(instance.instance_id()?.to_owned()))));
        }
        let keys = self.client.describe_key_pairs().filters(filter("key-name", &key_pairs(run.id))).send().await;
        let keys = keys.map_err(|error| self.error("DescribeKeyPairs", &error))?;
        things.extend(keys.key_pairs().iter().filter_map(|key| Some(Thing::KeyPair(key.key_name()?.to_owned()))));
        let mut groups = vec![filter(&tagged, &[run.id])];
        groups.extend(run.security_groups.iter().map(|name| filter("group-name", &[name])));
        for by in groups {
            let found = self.client.describe_security_groups().filters(by).send().await;
            let found = found.map_err(|error| self.error("DescribeSecurityGroups", &error))?;
            let ids = found.security_groups().iter().filter_map(|group| group.group_id());
            for thing in ids.map(|id| Thing::SecurityGroup(id.to_owned())) {
                if !things.contains(&thing) {
                    things.push(thing);
                }
            }
        }
        let query = ImageQuery {
            owners: vec!["self".to_owned()],
            filters: vec![("name".to_owned(), vec![run.image_name.to_owned()])],
        };
        let images = self.find_images(&query).await?;
        things.extend(images.into_iter().map(|image| Thing::Image(image.id, image.snapshots)));
        Ok(things)
    }

    async fn remove(&self, thing: &Thing) -> Result<(), Error> {
        match thing {
            Thing::Instance(id) => {
                let sent = self.client.terminate_instances().instance_ids(id).send().await;
                sent.map_err(|error| self.error("TerminateInstances", &error))?;
                let gone = self.client.wait_until_instance_terminated().instance_ids(id).wait(TERMINATION).await;
                gone.map(drop).map_err(|error| Error {
                    call: "TerminateInstances",
                    at: self.at.clone(),
                    reason: format!("{id} is not gone: {}", plain(&DisplayErrorContext(error).to_string())),
                })
            }
            Thing::KeyPair(name) => {
                let sent = self.client.delete_key_pair().key_name(name).send().await;
                sent.map(drop).map_err(|error| self.error("DeleteKeyPair", &error))
            }
            Thing::SecurityGroup(id) => {
                let sent = self.client.delete_security_group().group_id(id).send().await;
                sent.map(drop).map_err(|error| self.error("DeleteSecurityGroup", &error))
            }
            Thing::Image(id, snapshots) => {
                let sent = self.client.deregister_image().image_id(id).send().await;
                sent.map_err(|error| self.error("DeregisterImage", &error))?;
                for snapshot in snapshots {
                    let sent = self.client.delete_snapshot().snapshot_id(snapshot).send().await;
                    sent.map_err(|error| self.error("DeleteSnapshot", &error))?;
                }
                Ok(())
            }
        }
    }
}
