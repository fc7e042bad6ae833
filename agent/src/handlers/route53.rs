//! The instance's names in DNS.
//!
//! At every boot the handler writes an A record (AAAA too where there is an IPv6 address), a CNAME for
//! every alias and, if asked for, a PTR. Records of one hosted zone go in one batch, so that all of
//! them are there or none; a PTR in a reverse zone is a batch of its own, as the API knows no other.
//! What was written is kept, and `registered` takes exactly that out again when the machine stops.
//!
//! The instance's role needs `route53:ChangeResourceRecordSets` and `route53:ListResourceRecordSets`
//! on the zone, `route53:GetHostedZone` where the zone is given by its id, and
//! `route53:ListHostedZonesByName` where it is given by its name or is the zone of a PTR.

use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Node, Value, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::net::route53::{Action, Route53 as Service};
use crate::template;

mod plan;
mod ptr;
mod registered;
#[cfg(test)]
mod tests;

use plan::Batch;
use ptr::Ptr;
use registered::Registered;
pub use registered::release;

/// Route53 is one service for the world; it is asked here where the instance knows no region.
const USUAL_REGION: &str = "us-east-1";

/// Writes the instance's names into DNS.
pub struct Route53;

/// Keys of the DNS registration.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The instance's names in Route53.
    route53: Option<Keys>,
}

/// The instance's names in Route53.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keys {
    /// Register at all. Bakes switch it off.
    register: bool,
    /// The hosted zone: its id, or its name.
    zone: Option<String>,
    /// The name, a template: `{{ hostname }}`. A name outside the zone gets the zone's name added.
    name: Option<String>,
    /// More names, also templates; each becomes a CNAME that points at the name.
    aliases: Each<String>,
    /// Name the address too: true, the reverse zone, or `{name, zone}`.
    ptr: Ptr,
    /// The IPv4 address to register.
    address: Address,
    /// Seconds that a resolver may keep the records.
    ttl: u32,
    /// A failure fails the boot. Without it, a failure degrades the boot.
    required: bool,
    /// Seconds after which registering is given up.
    timeout: u64,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            register: true,
            zone: None,
            name: None,
            aliases: Each::default(),
            ptr: Ptr::default(),
            address: Address::Private,
            ttl: 300,
            required: false,
            timeout: 300,
        }
    }
}

/// Which of the instance's IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// The one inside the VPC.
    Private,
    /// The one that the world sees.
    Public,
}

impl Handler for Route53 {
    const NAME: &'static str = "route53";
    const SUMMARY: &'static str = "Registers the instance's names in Route53";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let is = |node: Option<&Node>, wanted| match node.map(|node| &node.value) {
            Some(Value::Scalar(word)) => scalar::boolean(&word.text) == Some(wanted),
            _ => false,
        };
        let registers = |keys: &&Node| !keys.is_null() && !is(keys.get("register"), false);
        let disable = config.get("disable_ec2_metadata").filter(|node| is(Some(node), true));
        let disable = disable.filter(|_| config.get("route53").is_some_and(|keys| registers(&keys)));
        let message = "the names of `route53` stay in DNS when the machine stops: to take them out, it asks the \
                       metadata for the credentials of its role; leave this out, or give kiln-route53.service \
                       credentials in its environment";
        disable.map(|node| node.diagnostic(Severity::Warning, "disable_ec2_metadata", message)).into_iter().collect()
    }

    fn best_effort(config: &Config) -> bool {
        !config.route53.as_ref().is_some_and(|keys| keys.required)
    }

    fn timeout(config: &Config) -> Duration {
        config.route53.as_ref().map_or(Self::TIMEOUT, |keys| Duration::from_secs(keys.timeout))
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let Some(keys) = &config.route53 else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "route53 has no keys".to_owned()));
        };
        if context.is_baking() {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "an image is being baked".to_owned()));
        }
        if !keys.register {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "route53.register is false".to_owned()));
        }
        let wanted = wanted(keys, context)?;
        let region = context.instance.region.as_deref().unwrap_or(USUAL_REGION);
        let service = Service::new(&context.system, region, context.deadline)?;
        register(&wanted, context, &service)
    }
}

/// The configuration with everything filled in that needs no call.
fn wanted(keys: &Keys, context: &Context) -> Result<plan::Wanted, Failure> {
    let missing = |key: &str, what: &str| Failure::new(Reason::Config, format!("route53.{key} is missing: {what}"));
    let zone = keys.zone.as_deref().map(str::trim).filter(|zone| !zone.is_empty());
    let zone = zone.ok_or_else(|| missing("zone", "write the id or the name of the hosted zone"))?;
    let name = keys.name.as_deref().ok_or_else(|| missing("name", "write `name: \"{{ hostname }}\"`"))?;
    let variables = template::variables(context);
    let fill = |key: &str, text: &str| {
        let filled = template::render(key, text, &variables).map_err(|e| Failure::new(Reason::Template, e))?;
        Ok::<_, Failure>(filled.trim().to_owned())
    };
    let aliases = keys.aliases.iter().map(|alias| fill("route53.aliases", alias));
    let ptr_name = keys.ptr.name.as_deref().map(|name| fill("route53.ptr.name", name)).transpose()?;
    Ok(plan::Wanted {
        zone: zone.to_owned(),
        name: fill("route53.name", name)?,
        aliases: aliases.collect::<Result<_, _>>()?,
        addresses: plan::addresses(keys.address, &context.instance)?,
        ptr: Ptr { name: ptr_name, ..keys.ptr.clone() },
        private: keys.address == Address::Private,
        ttl: i64::from(keys.ttl),
    })
}

fn register(wanted: &plan::Wanted, context: &Context, service: &Service) -> Handled {
    let mut batches = plan::batches(wanted, service)?;
    let earlier = Registered::read(&context.system)?.filter(|earlier| earlier.instance_id == context.instance.id);
    let earlier = earlier.map(|earlier| earlier.batches).unwrap_or_default();
    // On the disk before the first call: a crash in between leaves nothing in DNS that is not known here.
    let mut known = Registered::new(&context.instance, [batches.clone(), earlier.clone()].concat());
    known.write(&context.system)?;
    for batch in &mut batches {
        batch.change = service.change(&batch.zone_id, Action::Upsert, &batch.records)?;
    }
    let stale = plan::without(&earlier, &batches);
    if !stale.is_empty() {
        registered::remove(service, &known.batches, &stale)?;
    }
    known.batches.clone_from(&batches);
    known.write(&context.system)?;
    Ok(Outcome::Ok(Some(detail(&batches))))
}

fn detail(batches: &[Batch]) -> Json {
    let batch = |batch: &Batch| {
        let Batch { zone, zone_id, change, records } = batch;
        json!({"zone": zone.trim_end_matches('.'), "zone_id": zone_id, "change_id": change, "records": records})
    };
    json!({"changes": batches.iter().map(batch).collect::<Vec<_>>()})
}
