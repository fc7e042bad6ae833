//! The calls to Route53.

use std::time::{Duration, Instant};

use aws_sdk_route53::config::retry::RetryConfig;
use aws_sdk_route53::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_route53::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_route53::types as sdk;
use kiln_schema::status::Reason;
use serde::{Deserialize, Serialize};

use super::retry::{Verdict, connection_fault, root};
use super::{Backoff, Engine, Error, Policy, aws};
use crate::system::System;

/// The service allows five requests a second and account, so a fleet that starts together is
/// throttled for long: pauses are too.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(10) };
const PER_TRY: Duration = Duration::from_secs(20);
/// Errors that pass, by the codes of the service. It answers some of them with HTTP 400.
const PASSING: &[&str] = &[
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "PriorRequestNotComplete",
    "ServiceUnavailable",
    "InternalFailure",
];

/// A hosted zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// As `Z123`.
    pub id: String,
    /// With its last dot.
    pub name: String,
    /// Seen from inside a VPC only.
    pub private: bool,
}

/// A record with one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// With its last dot, in lower case.
    pub name: String,
    /// `A`, `AAAA`, `CNAME` or `PTR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds that a resolver may keep it.
    pub ttl: i64,
    /// An address, or a name with its last dot.
    pub value: String,
}

/// What a change does with every record of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Makes it, or replaces what has its name and type.
    Upsert,
    /// Removes it, if it still has this value and ttl.
    Delete,
}

/// What stands under a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No record.
    Nothing,
    /// A record with one value.
    Simple(Record),
    /// Several values, an alias or a weighted set: nothing that the agent makes.
    Other,
}

/// The service, with credentials.
pub struct Route53 {
    engine: Engine,
    client: aws_sdk_route53::Client,
    policy: Policy,
}

impl Route53 {
    /// Signs in. Every later call ends by the deadline.
    ///
    /// # Errors
    /// When there are no credentials, or nobody to trust.
    pub fn new(system: &System, region: &str, deadline: Instant) -> Result<Self, Error> {
        let engine = Engine::new()?;
        let policy = Policy::until(deadline).per_try(PER_TRY).backoff(BACKOFF);
        let endpoint = aws::endpoint("ROUTE_53");
        let plain = endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        let wire = aws::Wire::new(system, !plain)?;
        // Asked for here, so that an instance without a role is told so, once.
        let credentials = engine.run(aws::credentials(&policy))?;
        Ok(Route53 { engine, client: client(wire, region, endpoint, credentials), policy })
    }

    /// The service at another address, with credentials that open nothing and short pauses.
    #[cfg(test)]
    pub fn for_test(url: &str, deadline: Instant) -> Self {
        let credentials = Credentials::new("AKID", "SECRET", None, None, "test");
        let wire = aws::Wire::new(&System::new("/"), false).unwrap();
        let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };
        let policy = Policy::until(deadline).backoff(backoff);
        let client = client(wire, "us-east-1", Some(url.to_owned()), credentials);
        Route53 { engine: Engine::new().unwrap(), client, policy }
    }

    /// The zone with this id.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn zone(&self, id: &str) -> Result<Zone, Error> {
        let what = format!("Route53 GetHostedZone {id}");
        let attempt = || async { verdict(self.client.get_hosted_zone().id(id).send().await) };
        let answer = self.engine.run(self.policy.run(&what, attempt))?;
        let zone = answer.hosted_zone().map(Zone::from);
        zone.ok_or_else(|| Error::new(Reason::Network, format!("{what}: an answer without a zone")))
    }

    /// The zones with exactly this name: one may be public and others private.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn zones_named(&self, name: &str) -> Result<Vec<Zone>, Error> {
        let what = format!("Route53 ListHostedZonesByName {name}");
        let attempt = || async { verdict(self.client.list_hosted_zones_by_name().dns_name(name).send().await) };
        let answer = self.engine.run(self.policy.run(&what, attempt))?;
        let zones = answer.hosted_zones().iter().map(Zone::from);
        // The list goes on behind the name, in the order of the alphabet.
        Ok(zones.filter(|zone| zone.name == name).collect())
    }

    /// Sends one batch: all of it happens or nothing. Gives the id of the change.
    ///
    /// # Errors
    /// When the batch is refused, or not accepted before the deadline.
    pub fn change(&self, zone: &str, action: Action, records: &[Record]) -> Result<String, Error> {
        let what = format!("Route53 ChangeResourceRecordSets in {zone}");
        let bad = |e: aws_sdk_route53::error::BuildError| Error::new(Reason::Config, format!("{what}: {e}"));
        let verb = match action {
            Action::Upsert => sdk::ChangeAction::Upsert,
            Action::Delete => sdk::ChangeAction::Delete,
        };
        let change = |record: &Record| {
            let value = sdk::ResourceRecord::builder().value(&record.value).build()?;
            let set = sdk::ResourceRecordSet::builder()
                .name(&record.name)
                .r#type(record.kind.as_str().into())
                .ttl(record.ttl)
                .resource_records(value)
                .build()?;
            sdk::Change::builder().action(verb.clone()).resource_record_set(set).build()
        };
        let changes = records.iter().map(change).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let batch =
            sdk::ChangeBatch::builder().set_changes(Some(changes)).comment("kiln-agent").build().map_err(bad)?;
        let call = self.client.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch);
        let attempt = || async { verdict(call.clone().send().await) };
        let answer = self.engine.run(self.policy.run(&what, attempt))?;
        Ok(answer.change_info().map_or_else(String::new, |info| info.id().trim_start_matches("/change/").to_owned()))
    }

    /// What stands under a name and type.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn standing(&self, zone: &str, name: &str, kind: &str) -> Result<Standing, Error> {
        let what = format!("Route53 ListResourceRecordSets in {zone}");
        let call = self.client.list_resource_record_sets().hosted_zone_id(zone);
        let call = call.start_record_name(name).start_record_type(kind.into()).max_items(1);
        let attempt = || async { verdict(call.clone().send().await) };
        let answer = self.engine.run(self.policy.run(&what, attempt))?;
        // The list goes on behind the name.
        let first = answer.resource_record_sets().first();
        let first = first.filter(|set| same_name(set.name(), name) && set.r#type().as_str() == kind);
        Ok(first.map_or(Standing::Nothing, |set| simple(set).map_or(Standing::Other, Standing::Simple)))
    }
}

/// The SDK's client. It does not retry by itself: how long to go on is said in one place, [`Policy`].
fn client(
    wire: aws::Wire,
    region: &str,
    endpoint: Option<String>,
    credentials: Credentials,
) -> aws_sdk_route53::Client {
    let mut config = aws_sdk_route53::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(wire)
        .region(Region::new(region.to_owned()))
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        // An answer comes whole or not at all.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(endpoint);
    aws_sdk_route53::Client::from_conf(config.build())
}

impl From<&sdk::HostedZone> for Zone {
    fn from(zone: &sdk::HostedZone) -> Self {
        Zone {
            id: zone.id().trim_start_matches("/hostedzone/").to_owned(),
            name: zone.name().to_owned(),
            private: zone.config().is_some_and(sdk::HostedZoneConfig::private_zone),
        }
    }
}

/// Whether two names are one: case and the last dot mean nothing, and the service spells `*` as `\052`.
pub fn same_name(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.trim_end_matches('.').to_lowercase().replace("\\052", "*");
    plain(one) == plain(other)
}

fn simple(set: &sdk::ResourceRecordSet) -> Option<Record> {
    match (set.set_identifier(), set.ttl(), set.resource_records()) {
        (None, Some(ttl), [only]) => Some(Record {
            name: set.name().replace("\\052", "*"),
            kind: set.r#type().as_str().to_owned(),
            ttl,
            value: only.value().to_owned(),
        }),
        _ => None,
    }
}

/// What an answer of the SDK means.
fn verdict<T, E>(answer: Result<T, SdkError<E>>) -> Verdict<T>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let error = match answer {
        Ok(value) => return Verdict::Done(value),
        Err(error) => error,
    };
    if let SdkError::ServiceError(context) = &error {
        let status = context.raw().status().as_u16();
        let code = context.err().code().unwrap_or("an error without a code");
        let said = context.err().message().map_or(String::new(), |m| format!(": {}", m.trim_end_matches('.')));
        let passing = PASSING.contains(&code) || status >= 500 || status == 429;
        let reason = if passing { Reason::Network } else { Reason::Refused };
        let mut cause = Error::new(reason, format!("{code}{said}"));
        cause.status = Some(status);
        return if passing { Verdict::Retry { cause, after: None } } else { Verdict::GiveUp(cause) };
    }
    if matches!(error, SdkError::ConstructionFailure(_)) {
        return Verdict::GiveUp(Error::new(Reason::Config, root(&error)));
    }
    connection_fault(&error)
}
