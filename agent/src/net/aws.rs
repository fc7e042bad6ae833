//! What every call to AWS needs: credentials, a region, a client that trusts the image's certificates.

use std::env;
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use kiln_schema::status::Reason;
use tokio::time::timeout;

use super::retry::{Verdict, seconds};
use super::{Error, Policy, certificates};
use crate::system::System;

/// The metadata service hands out credentials at once, or it was just not ready.
const CREDENTIALS: Duration = Duration::from_secs(10);
/// An instance without a role and a service that stumbles look the same to the SDK.
const CREDENTIALS_TRIES: u32 = 4;

/// Where a service is to be asked instead of at AWS: the environment's address for the service
/// (`AWS_ENDPOINT_URL_EC2`), else for all of them.
pub fn endpoint(service: &str) -> Option<String> {
    let own = format!("AWS_ENDPOINT_URL_{service}");
    [own.as_str(), "AWS_ENDPOINT_URL"].iter().find_map(|name| env::var(name).ok().filter(|url| !url.is_empty()))
}

/// The SDK's settings. It does not retry by itself: how long to go on is said in one place, [`Policy`].
///
/// # Errors
/// When an HTTPS endpoint would have nobody to trust.
pub async fn config(
    system: &System,
    region: &str,
    endpoint: Option<&str>,
    deadline: Instant,
) -> Result<SdkConfig, Error> {
    let plain = endpoint.is_some_and(|url| url.starts_with("http://"));
    // The SDK's own client asserts that the platform has certificates.
    let trusted = match certificates::bundle(system) {
        Ok(pem) => TrustStore::empty().with_pem_certificate(pem),
        Err(_) if plain => TrustStore::empty(),
        Err(error) => return Err(error),
    };
    let unusable = |e: &dyn std::fmt::Display| Error::new(Reason::Network, format!("no AWS client: {e}"));
    let context = TlsContext::builder().with_trust_store(trusted).build().map_err(|e| unusable(&e))?;
    let client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https();
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).build());
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, loader.load())
        .await
        .map_err(|_| Error::new(Reason::Timeout, format!("no AWS settings within {}", seconds(left))))
}

/// The instance's credentials, or those of the environment.
///
/// # Errors
/// When the instance has no role, or nobody answers before the deadline.
pub async fn credentials(config: &SdkConfig, policy: &Policy) -> Result<Credentials, Error> {
    let none = || {
        let message = "the instance has no IAM role; start it with an instance profile that allows the call";
        Error::new(Reason::Refused, message)
    };
    let provider = config.credentials_provider().ok_or_else(none)?;
    let policy = policy.per_try(CREDENTIALS).tries(CREDENTIALS_TRIES);
    let attempt = || async {
        match provider.provide_credentials().await {
            Ok(credentials) => Verdict::Done(credentials),
            Err(CredentialsError::CredentialsNotLoaded(_)) => Verdict::Retry { cause: none(), after: None },
            Err(error) => {
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                Verdict::Retry { cause: Error::new(Reason::Network, cause), after: None }
            }
        }
    };
    policy.run("AWS credentials", attempt).await
}
