//! How an API is reached: at which address and as whom. A client of any service in any region comes from here.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;

use super::{Ec2, Groups, Ssm};

/// The way to an API.
#[derive(Clone, Default)]
pub struct Door {
    /// The address of every service and region; without it, AWS's own.
    endpoint: Option<String>,
    /// Pairs of the environment in which credentials are looked for first.
    environment: Vec<(String, String)>,
}

impl Door {
    /// To AWS, or to another address. Credentials come from the pairs of the environment given, or as
    /// every AWS tool finds them.
    pub fn new(endpoint: Option<&str>, environment: &[(String, String)]) -> Door {
        Door { endpoint: endpoint.map(str::to_owned), environment: environment.to_vec() }
    }

    /// EC2 in a region; without one, in that of the environment.
    pub async fn ec2(&self, region: Option<&str>) -> Ec2 {
        let (config, at) = self.config(region).await;
        Ec2::from(&config, at)
    }

    /// The parameters of a region.
    pub async fn parameters(&self, region: &str) -> Ssm {
        let (config, at) = self.config(Some(region)).await;
        Ssm::from(&config, at)
    }

    /// The auto scaling groups of a region.
    pub async fn groups(&self, region: &str) -> Groups {
        let (config, at) = self.config(Some(region)).await;
        Groups::from(&config, at)
    }

    async fn config(&self, region: Option<&str>) -> (SdkConfig, String) {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let variable = |name: &str| self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "lab"));
        }
        let config = loader.load().await;
        let region = config.region().map(ToString::to_string);
        let at = self.endpoint.clone().or(region).unwrap_or_else(|| "no region".to_owned());
        (config, at)
    }
}
