//! One image by its id, and names that stand for an id.

use aws_sdk_ssm::error::ProvideErrorMetadata;

use super::ec2::{Ec2, ami};
use super::{Ami, Error, FindImages, ImageQuery, filter};

/// Looking for the image that another is built on.
pub trait Bases: FindImages {
    /// The image of this id if it is there and fits; every image fits the empty query. One that is deprecated
    /// counts: its owner only advises against it.
    fn known(&self, id: &str, query: &ImageQuery) -> impl Future<Output = Result<Option<Ami>, Error>>;

    /// The value of a parameter of SSM. None when there is no such parameter.
    fn parameter(&self, name: &str) -> impl Future<Output = Result<Option<String>, Error>>;
}

impl Bases for Ec2 {
    async fn known(&self, id: &str, query: &ImageQuery) -> Result<Option<Ami>, Error> {
        // By filter: asked for by id, an image that is not there is an error.
        let filters = [filter("image-id", &[id])].into_iter().chain(query.filters.iter().map(|(n, v)| filter(n, v)));
        let owners = (!query.owners.is_empty()).then(|| query.owners.clone());
        let call = self.client.describe_images().set_filters(Some(filters.collect())).set_owners(owners);
        let found = call.include_deprecated(true).send().await;
        let found = found.map_err(|error| self.error("DescribeImages", &error))?;
        Ok(found.images().first().map(ami))
    }

    async fn parameter(&self, name: &str) -> Result<Option<String>, Error> {
        let client = aws_sdk_ssm::Client::new(&self.config);
        match client.get_parameter().name(name).send().await {
            Ok(found) => Ok(found.parameter().and_then(|parameter| parameter.value()).map(str::to_owned)),
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(None),
            Err(error) => Err(self.error("GetParameter", &error)),
        }
    }
}
