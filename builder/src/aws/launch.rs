//! Starting an instance.

use aws_sdk_ec2::types::{InstanceType, ResourceType, ShutdownBehavior, Tag, TagSpecification};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Error;
use super::ec2::Ec2;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInstance {
    /// The image.
    pub image: String,
    /// The type, such as `t3.small`.
    pub instance_type: String,
    /// The user-data as the machine is to read it.
    pub user_data: String,
    /// Tags of the instance, there from its first moment.
    pub tags: Vec<(String, String)>,
}

/// Starting instances, and ending them.
pub trait Launch {
    /// Starts one, which is terminated when it powers off, and gives its id.
    fn launch(&self, new: &NewInstance) -> impl Future<Output = Result<String, Error>>;

    /// Lets one end; it may not be gone yet when this returns.
    fn terminate(&self, id: &str) -> impl Future<Output = Result<(), Error>>;
}

impl Launch for Ec2 {
    async fn launch(&self, new: &NewInstance) -> Result<String, Error> {
        let tags = new.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let tags = TagSpecification::builder().resource_type(ResourceType::Instance).set_tags(Some(tags)).build();
        let sent = self
            .client
            .run_instances()
            .image_id(&new.image)
            .instance_type(InstanceType::from(new.instance_type.as_str()))
            .min_count(1)
            .max_count(1)
            .user_data(STANDARD.encode(&new.user_data))
            .tag_specifications(tags)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .send()
            .await
            .map_err(|error| self.error("RunInstances", &error))?;
        let id = sent.instances().first().and_then(|instance| instance.instance_id()).map(str::to_owned);
        id.ok_or_else(|| self.unexpected("RunInstances", "it named no instance"))
    }

    async fn terminate(&self, id: &str) -> Result<(), Error> {
        let sent = self.client.terminate_instances().instance_ids(id).send().await;
        sent.map(drop).map_err(|error| self.error("TerminateInstances", &error))
    }
}
