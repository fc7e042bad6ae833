//! Parameters of Systems Manager: names that lead to an image, with their history.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::ProvideErrorMetadata;
use aws_sdk_ssm::types::ParameterType;
use tokio::time::{Instant, sleep};

use super::Error;
use super::ec2::refused;

/// What makes the API check that the value is an image, and launch templates read it.
const IMAGE: &str = "aws:ec2:image";
/// How long the API may take to check that.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(500);

/// A value that a parameter has or had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The id of the image.
    pub image: String,
    /// How it came to be there.
    pub record: String,
}

/// Parameters of one region.
pub trait Parameters {
    /// All values that are known of a parameter, the oldest first; none when there is no such parameter.
    fn history(&self, name: &str) -> impl Future<Output = Result<Vec<Version>, Error>>;

    /// Sets a parameter. It has the value when this returns.
    fn set(&self, name: &str, version: &Version) -> impl Future<Output = Result<(), Error>>;
}

/// Systems Manager in one region.
pub struct Ssm {
    client: Client,
    at: String,
}

impl Ssm {
    pub(super) fn from(config: &SdkConfig, at: String) -> Ssm {
        Ssm { client: Client::new(config), at }
    }
}

impl Parameters for Ssm {
    async fn history(&self, name: &str) -> Result<Vec<Version>, Error> {
        let mut pages = self.client.get_parameter_history().name(name).into_paginator().send();
        let mut versions = Vec::new();
        while let Some(page) = pages.next().await {
            match page {
                Err(error) if error.code() == Some("ParameterNotFound") => return Ok(Vec::new()),
                Err(error) => return Err(refused(&self.at, "GetParameterHistory", &error)),
                Ok(page) => versions.extend(page.parameters().iter().map(|version| {
                    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
                    (version.version(), Version { image: text(version.value()), record: text(version.description()) })
                })),
            }
        }
        versions.sort_by_key(|(number, _)| *number);
        Ok(versions.into_iter().map(|(_, version)| version).collect())
    }

    async fn set(&self, name: &str, version: &Version) -> Result<(), Error> {
        let call = self.client.put_parameter().name(name).value(&version.image).description(&version.record);
        let call = call.r#type(ParameterType::String).data_type(IMAGE).overwrite(true);
        call.send().await.map_err(|error| refused(&self.at, "PutParameter", &error))?;
        // The API looks at the image after it has answered, and nobody is told what it found.
        let end = Instant::now() + PATIENCE;
        while self.history(name).await?.last() != Some(version) {
            if Instant::now() >= end {
                let reason = format!("{name} does not take the value {}: is it an image there?", version.image);
                return Err(Error { call: "PutParameter", at: self.at.clone(), reason });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}
