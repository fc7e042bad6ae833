//! Telling a server how the boot went.
//!
//! It is the last to run and tells success and failure alike. Told is told: once the server has taken
//! the message, later boots of the instance send none, as users of cloud-init have it. A message that
//! did not arrive is sent at the next boot, because a server that was down for a minute would else
//! never hear of the instance. `every_boot` sends one at each boot.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Each, Node, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::net::{Backoff, Client, Engine, Policy, Request};
use crate::report::{foretold, instance_folder};
use crate::system::{FileOptions, now};
use crate::template;

/// The header with the signature: `sha256=` and the HMAC of the body in hexadecimal digits.
const SIGNATURE: &str = "X-Kiln-Signature";
/// Pauses between tries. cloud-init waits for 3 s; a fleet that boots together should not.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(6) };
/// A key file has a line.
const KEY_LIMIT: u64 = 64 * 1024;

/// Tells a server how the boot went.
pub struct PhoneHome;

/// Keys of the message to the server.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The message to the server.
    phone_home: Option<Keys>,
}

/// The message to the server.
#[derive(Deserialize, JsonSchema)]
pub struct Keys {
    /// Where it goes; `$INSTANCE_ID` and template variables are filled in.
    url: String,
    /// The fields of the form, or `all`.
    #[serde(default, deserialize_with = "yaml::tolerant")]
    post: Each<Field>,
    /// How often it is tried.
    #[serde(default = "ten")]
    tries: u32,
    /// Fields of a form, or the whole status as JSON.
    #[serde(default)]
    format: Format,
    /// Seconds that one try may take.
    #[serde(default = "ten_seconds")]
    timeout: u64,
    /// Send it at every boot, and not once an instance.
    #[serde(default)]
    every_boot: bool,
    /// Sign the body with this key.
    hmac_secret: Option<String>,
    /// Sign the body with the key in this file.
    hmac_key_file: Option<String>,
}

impl Keys {
    /// Once at least: a message that is never tried would be no use of the key.
    fn tries(&self) -> u32 {
        self.tries.max(1)
    }

    fn per_try(&self) -> Duration {
        Duration::from_secs(self.timeout.max(1))
    }
}

fn ten() -> u32 {
    10
}

fn ten_seconds() -> u64 {
    10
}

/// What the body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// `application/x-www-form-urlencoded`, as cloud-init sends it.
    #[default]
    Form,
    /// The status file as it will stand.
    Json,
}

/// A field of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Field {
    /// Every field but the DSA key.
    All,
    /// The host's RSA key.
    PubKeyRsa,
    /// The host's ECDSA key.
    PubKeyEcdsa,
    /// The host's Ed25519 key.
    #[serde(rename = "pub_key_ed25519")]
    PubKeyEd25519,
    /// The host's DSA key, which no host has any more.
    PubKeyDsa,
    /// The instance's id.
    InstanceId,
    /// The host name.
    Hostname,
    /// The full name.
    Fqdn,
}

/// What `all` means, in the order of the form.
const ALL: &[Field] =
    &[Field::PubKeyRsa, Field::PubKeyEcdsa, Field::PubKeyEd25519, Field::InstanceId, Field::Hostname, Field::Fqdn];

impl Field {
    fn name(self) -> &'static str {
        match self {
            Field::All => "all",
            Field::PubKeyRsa => "pub_key_rsa",
            Field::PubKeyEcdsa => "pub_key_ecdsa",
            Field::PubKeyEd25519 => "pub_key_ed25519",
            Field::PubKeyDsa => "pub_key_dsa",
            Field::InstanceId => "instance_id",
            Field::Hostname => "hostname",
            Field::Fqdn => "fqdn",
        }
    }

    fn value(self, context: &Context, variables: &serde_json::Value) -> Option<String> {
        match self {
            Field::All => None,
            Field::InstanceId | Field::Hostname | Field::Fqdn => {
                variables.get(self.name())?.as_str().map(str::to_owned)
            }
            _ => {
                let kind = self.name().trim_start_matches("pub_key_");
                // The whole file, the last newline too: so cloud-init sends it.
                context.system.read_text(format!("/etc/ssh/ssh_host_{kind}_key.pub")).ok()
            }
        }
    }
}

impl Handler for PhoneHome {
    const NAME: &'static str = "phone_home";
    const SUMMARY: &'static str = "Tells a server how the boot went";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    const TELLS: bool = true;
    type Config = Config;

    fn best_effort(_: &Config) -> bool {
        true
    }

    fn timeout(config: &Config) -> Duration {
        let Some(keys) = &config.phone_home else { return Self::TIMEOUT };
        keys.per_try().saturating_add(BACKOFF.cap).saturating_mul(keys.tries()).min(Self::TIMEOUT)
    }

    fn check(config: &Node) -> Vec<Diagnostic> {
        // `all` alone is no list.
        let post = config.get("phone_home").and_then(|keys| keys.get("post"));
        let lone = |node: &&Node| matches!(node.value, Value::Scalar(_)) && !node.is_null() && node.to_json() != "all";
        let lone = post.filter(lone).map(|node| node.diagnostic(Severity::Warning, "phone_home.post", yaml::LONE));
        lone.into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let Some(keys) = &config.phone_home else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "phone_home has no keys".to_owned()));
        };
        if context.is_baking() {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "an image is being baked".to_owned()));
        }
        let marker = format!("{}/phone-home", instance_folder(&context.instance.id));
        if let (Ok(at), false) = (context.system.read_text(&marker), keys.every_boot) {
            return Ok(Outcome::Skipped(Reason::RanBefore, format!("the server took the message {}", at.trim())));
        }
        let variables = template::variables(context);
        let (content_type, body) = match keys.format {
            Format::Form => ("application/x-www-form-urlencoded", form(&keys.post, context, &variables)),
            Format::Json => ("application/json", whole(context)?),
        };
        let url = fill(&keys.url, &context.instance.id, &variables)?;
        let mut request = Request::post(&url, content_type, body.clone())?;
        if let Some(key) = key(keys, context)? {
            request = request.header(SIGNATURE, &signature(&key, &body), false)?;
        }
        let policy = Policy::until(context.deadline).tries(keys.tries()).per_try(keys.per_try());
        let policy = policy.backoff(BACKOFF);
        let client = Client::new(&context.system);
        let answer = Engine::new()?.run(client.send(&request, &policy))?;
        context.system.write(&marker, format!("{}\n", now()), FileOptions::mode(0o644))?;
        Ok(Outcome::Ok(Some(json!({"status": answer.status, "signed": is_signed(keys)}))))
    }
}

/// The URL with everything filled in.
fn fill(url: &str, id: &str, variables: &serde_json::Value) -> Result<String, Failure> {
    let url = url.trim().replace("$INSTANCE_ID", id);
    if !url.contains("{{") && !url.contains("{%") {
        return Ok(url);
    }
    template::render("phone_home.url", &url, variables).map_err(|e| Failure::new(Reason::Template, e))
}

fn form(post: &[Field], context: &Context, variables: &serde_json::Value) -> Vec<u8> {
    let fields = if post.is_empty() || post.contains(&Field::All) { ALL } else { post };
    let value = |field: &Field| field.value(context, variables).unwrap_or_else(|| "N/A".to_owned());
    crate::net::form(fields.iter().map(|field| (field.name(), value(field)))).into_bytes()
}

fn whole(context: &Context) -> Result<Vec<u8>, Failure> {
    let status = foretold(context.status_so_far(), PhoneHome::NAME);
    Ok(serde_json::to_vec(&status).map_err(std::io::Error::from)?)
}

fn is_signed(keys: &Keys) -> bool {
    keys.hmac_secret.is_some() || keys.hmac_key_file.is_some()
}

/// The key of the signature. The file is read now, as an earlier handler may have written it.
fn key(keys: &Keys, context: &Context) -> Result<Option<Vec<u8>>, Failure> {
    let key = match (&keys.hmac_secret, &keys.hmac_key_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let message = "phone_home has both hmac_secret and hmac_key_file; leave one out";
            return Err(Failure::new(Reason::Config, message));
        }
        (Some(secret), None) => secret.clone().into_bytes(),
        // An editor ends the file with a newline, which is no part of the key.
        (None, Some(path)) => context.system.read_limited(path, KEY_LIMIT)?.trim_ascii_end().to_vec(),
    };
    if key.is_empty() {
        return Err(Failure::new(Reason::Config, "the key of phone_home's signature is empty"));
    }
    Ok(Some(key))
}

fn signature(key: &[u8], body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        // Keys of any length are taken.
        return String::new();
    };
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Received, Reply, Server, answer};
    use crate::system::System;
    use kiln_schema::status::{HandlerReport, OutcomeKind, State, Status};
    use std::time::Instant;

    /// A machine whose server answers so; its deadline is short.
    struct Machine {
        tree: tempfile::TempDir,
        server: Server,
    }

    fn machine(reply: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Machine {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/etc/hostname", "web\n", FileOptions::default()).unwrap();
        system.write("/etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA+/ root@web\n", FileOptions::default()).unwrap();
        Machine { tree, server: Server::start(reply) }
    }

    impl Machine {
        fn context(&self, keys: &str) -> Context {
            let url = self.server.url("");
            let mut context =
                Context::for_test(self.tree.path(), &format!("phone_home: {{url: '{url}/$INSTANCE_ID', {keys}}}"));
            context.deadline = Instant::now() + Duration::from_secs(30);
            context
        }

        fn run(&self, keys: &str) -> Handled {
            self.context(keys).run_handler::<PhoneHome>()
        }
    }

    fn ok(server: &Server) -> Received {
        let mut received = server.received();
        assert_eq!(received.len(), 1);
        received.remove(0)
    }

    #[test]
    fn the_form_has_the_fields_of_cloud_init_in_their_order() {
        let rsa = "ssh-rsa+AAAA%2B%2F+root%40web%0A";
        let all = format!(
            "pub_key_rsa={rsa}&pub_key_ecdsa=N%2FA&pub_key_ed25519=N%2FA&instance_id=i-test&hostname=web&fqdn=web"
        );
        for (keys, body) in [
            ("", all.clone()),
            ("post: all", all.clone()),
            (
                "post: [instance_id, pub_key_rsa, pub_key_dsa]",
                format!("instance_id=i-test&pub_key_rsa={rsa}&pub_key_dsa=N%2FA"),
            ),
        ] {
            let machine = machine(|_, _| answer(200, ""));
            assert!(matches!(machine.run(keys), Ok(Outcome::Ok(_))), "{keys}");
            let request = ok(&machine.server);
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/i-test"));
            assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
            assert_eq!(request.body, body, "{keys}");
        }
    }

    #[test]
    fn the_whole_status_tells_success_and_failure_alike() {
        for (failed, state) in [(false, State::Done), (true, State::Failed)] {
            let machine = machine(|_, _| answer(204, ""));
            let mut context = machine.context("format: json");
            let report = crate::report::Report::begin(&context.system);
            for stage in Stage::ALL {
                report.stage_began(stage).unwrap();
                if stage != Stage::Final {
                    report.stage_ended(stage).unwrap();
                }
            }
            for (name, outcome) in [
                ("puppet", if failed { OutcomeKind::Failed } else { OutcomeKind::Ok }),
                ("phone_home", OutcomeKind::Running),
            ] {
                let (started, best_effort) = (now().to_string(), name == "phone_home");
                let (stage, duration_ms) = (Stage::Final, 0);
                let (reason, message, detail) = (None, None, None);
                let name = name.to_owned();
                let handler =
                    HandlerReport { name, stage, outcome, best_effort, started, duration_ms, reason, message, detail };
                report.note(handler);
            }
            context = context.with_report(report);
            context.run_handler::<PhoneHome>().unwrap();
            let request = ok(&machine.server);
            assert_eq!(request.header("content-type"), Some("application/json"));
            let status: Status = serde_json::from_str(&request.body).unwrap();
            assert_eq!(status.state, state);
            assert!(status.finished.is_some() && status.stages[2].finished.is_some());
            assert_eq!(status.handlers[1].outcome, OutcomeKind::Ok);
            assert_eq!(context.status_so_far().handlers[1].outcome, OutcomeKind::Running, "the file says what is true");
        }
    }

    #[test]
    fn an_error_of_the_server_is_tried_again() {
        let machine = machine(|_, before| answer(if before < 2 { 500 } else { 200 }, ""));
        let Ok(Outcome::Ok(Some(detail))) = machine.run("tries: 3") else { panic!() };
        assert_eq!(detail, json!({"status": 200, "signed": false}));
        assert_eq!(machine.server.received().len(), 3);
    }

    #[test]
    fn a_server_that_never_answers_is_given_up_within_its_bound() {
        let machine = machine(|_, _| Reply::Silence);
        let began = Instant::now();
        let failure = machine.run("tries: 2, timeout: 1").unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(failure.reason, Reason::Timeout);
        assert!(failure.message.contains("no answer within 1 s (2 tries in "), "{}", failure.message);
        let context = machine.context("tries: 2, timeout: 1");
        let prepared = super::super::Entry::of::<PhoneHome>().prepare(&context.config).run.unwrap();
        assert!(prepared.best_effort, "a failure degrades the boot");
        assert_eq!(prepared.timeout, Duration::from_secs(14));
        let forever = machine.context("tries: 4000000000, timeout: 4000000000");
        let prepared = super::super::Entry::of::<PhoneHome>().prepare(&forever.config).run.unwrap();
        assert_eq!(prepared.timeout, PhoneHome::TIMEOUT);
    }

    #[test]
    fn a_message_that_arrived_is_not_sent_again_and_one_that_did_not_is() {
        let machine = machine(|_, before| answer(if before == 0 { 403 } else { 200 }, ""));
        machine.run("").unwrap_err();
        assert!(matches!(machine.run(""), Ok(Outcome::Ok(_))));
        assert!(matches!(machine.run(""), Ok(Outcome::Skipped(Reason::RanBefore, _))));
        assert_eq!(machine.server.received().len(), 2);
        assert!(matches!(machine.run("every_boot: yes"), Ok(Outcome::Ok(_))));
        assert_eq!(machine.server.received().len(), 3);
    }

    #[test]
    fn the_signature_is_that_of_the_body_and_the_key_is_nowhere() {
        // RFC 4231, test case 2, and one with a key longer than a block.
        let jefe = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), jefe);
        let long = "sha256=60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(signature(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"), long);
        for keys in ["hmac_secret: hunter2", "hmac_key_file: /etc/key"] {
            let machine = machine(|_, _| answer(200, ""));
            let system = System::new(machine.tree.path());
            system.write("/etc/key", "hunter2\n", FileOptions::mode(0o600)).unwrap();
            let outcome = machine.run(keys).unwrap();
            let request = ok(&machine.server);
            let expected = signature(b"hunter2", request.body.as_bytes());
            assert_eq!(request.header("x-kiln-signature"), Some(expected.as_str()));
            assert!(!format!("{outcome:?} {request:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_cannot_be_sent_is_one_sentence_without_a_secret() {
        let tree = tempfile::tempdir().unwrap();
        for (user_data, reason, says) in [
            ("{url: 'not a url'}", Reason::Config, "`not a url` is not a URL"),
            ("{url: 'http://x/{{ nope }}'}", Reason::Template, "phone_home.url line 1: `nope` is not defined"),
            ("{url: 'http://x', hmac_key_file: /none}", Reason::Io, "/none: No such file"),
            ("{url: 'http://x', hmac_secret: a, hmac_key_file: /b}", Reason::Config, "both hmac_secret and"),
            ("{url: 'http://x', hmac_secret: ''}", Reason::Config, "signature is empty"),
            ("{url: 'https://u:hunter2@x/?k=hunter2'}", Reason::NoCertificates, "POST https://x/?…: HTTPS needs"),
        ] {
            let mut context = Context::for_test(tree.path(), &format!("phone_home: {user_data}"));
            let failure = context.run_handler::<PhoneHome>().unwrap_err();
            assert_eq!(failure.reason, reason, "{user_data}");
            assert!(failure.message.contains(says), "{}", failure.message);
            assert!(!failure.message.contains("hunter2"));
        }
    }

    #[test]
    fn bad_keys_are_found_before_anything_runs() {
        for (user_data, says) in [
            ("phone_home: {post: [hostname]}", "the key `url` is missing"),
            ("phone_home: {url: x, post: [pub_kye_rsa]}", "did you mean `pub_key_rsa`?"),
            ("phone_home: {url: x, format: xml}", "expected one of form, json"),
            ("phone_home: {url: x, tires: 3}", "did you mean `tries`?"),
        ] {
            let context = Context::for_test(tempfile::tempdir().unwrap().path(), user_data);
            let findings = super::super::Entry::of::<PhoneHome>().prepare(&context.config).diagnostics;
            assert!(findings.iter().any(|finding| finding.to_string().contains(says)), "{findings:?}");
        }
    }

    #[test]
    fn a_bake_tells_nobody() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "{phone_home: {url: 'http://x'}, kiln: {baking: true}}");
        assert!(matches!(context.run_handler::<PhoneHome>(), Ok(Outcome::Skipped(Reason::SwitchedOff, _))));
    }
}
