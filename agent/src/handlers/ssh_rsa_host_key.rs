//! The RSA host key: its search for primes takes up to seconds, so it waits for the final stage.

use std::time::Duration;

use kiln_schema::status::{Reason, Stage};
use serde_json::json;

use super::ssh_host_keys::{Config, Kind, generate, has_sshd};
use super::{Finds, Frequency, Handled, Handler, Outcome, read_keys};
use crate::context::Context;
use crate::ssh;

/// Makes the RSA host key and lets sshd offer it.
pub struct SshRsaHostKey;

impl Handler for SshRsaHostKey {
    const NAME: &'static str = "ssh_rsa_host_key";
    const SUMMARY: &'static str = "Makes the RSA host key, for which sshd need not wait";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(120);
    const FINDS: Option<Finds> = Some(|system, config, _| {
        let asked = config.get("ssh_genkeytypes").is_some();
        let plans = || read_keys::<Config>(config).value.is_none_or(|config| config.plan(system).1);
        (asked || has_sshd(system)) && !Kind::Rsa.is_there(system) && plans()
    });
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let skip = |reason, message: &str| Ok(Outcome::Skipped(reason, message.to_owned()));
        let asked = context.config.get("ssh_genkeytypes").is_some();
        if !asked && !has_sshd(&context.system) {
            return skip(Reason::NothingToDo, "this image has no sshd");
        }
        if Kind::Rsa.is_there(&context.system) {
            return skip(Reason::NothingToDo, "the key is there");
        }
        if !config.plan(&context.system).1 {
            return skip(Reason::SwitchedOff, "no RSA key is asked for");
        }
        let key = generate(Kind::Rsa, context)?;
        let refreshed = ssh::refresh_sshd(context, ssh::KEYS_NOT_OFFERED)?;
        Ok(Outcome::Ok(Some(json!({"keys": {"rsa": key.fingerprint()}, "sshd": refreshed}))))
    }
}
