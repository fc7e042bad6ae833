//! Certificates of authorities that the machine trusts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::Each;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{must, put, text_or_empty};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::{FileOptions, System};

/// The list of Debian's own certificates; a `!` before a name takes it out.
const LIST: &str = "/etc/ca-certificates.conf";
/// The line over the names that are taken out, as cloud-init writes it.
const NOTE: &str = "# Modified by cloud-init to deselect certs due to user-data";
/// Red Hat's sources of the trust store.
const SOURCES: &str = "/usr/share/pki/ca-trust-source";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Adds certificates to the trust store.
pub struct CaCerts;

/// Keys of the trust store.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Whom the machine trusts.
    ca_certs: Option<Keys>,
    /// The older name of `ca_certs`.
    #[serde(rename = "ca-certs")]
    older: Option<Keys>,
}

/// Whom the machine trusts.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// Trust none of the distribution's own certificates; also `remove-defaults`.
    #[serde(alias = "remove-defaults")]
    remove_defaults: bool,
    /// Certificates to trust, each as PEM text.
    trusted: Each<String>,
}

impl Handler for CaCerts {
    const NAME: &'static str = "ca_certs";
    const SUMMARY: &'static str = "Adds certificates to the trust store";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let system = &context.system;
        let Some((key, keys)) = config
            .ca_certs
            .as_ref()
            .map(|keys| ("ca_certs", keys))
            .or_else(|| config.older.as_ref().map(|keys| ("ca-certs", keys)))
        else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no certificates are given".to_owned()));
        };
        if !keys.remove_defaults && keys.trusted.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no certificates are given".to_owned()));
        }
        let red_hat = system.distro().is_red_hat();
        let mut failures = Vec::new();
        if keys.remove_defaults {
            let removed = if red_hat { remove_sources(system) } else { deselect(system) };
            failures.extend(removed.err().map(Failure::from));
        }
        let folder = if red_hat { format!("{SOURCES}/anchors") } else { "/usr/local/share/ca-certificates".to_owned() };
        let mut written = Vec::new();
        for (index, certificate) in keys.trusted.iter().enumerate() {
            if let Err(why) = check(certificate) {
                failures.push(Failure::new(Reason::Config, format!("{key}.trusted[{index}]: {why}")));
                continue;
            }
            let path = format!("{folder}/cloud-init-ca-cert-{}.crt", index + 1);
            match put(system, &path, certificate, 0o644) {
                Ok(_) => written.push(path),
                Err(error) => failures.push(error.into()),
            }
        }
        let (program, args): (_, &[&str]) =
            if red_hat { ("update-ca-trust", &["extract"]) } else { ("update-ca-certificates", &[]) };
        let command = context.command(program).args(args.iter().copied());
        failures.extend(must(context, &command, "install the package ca-certificates into the image").err());
        let detail = json!({"trusted": written, "defaults_removed": keys.remove_defaults});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// One that is no certificate is kept out: it would lie in the bundle that every program reads, and
/// some then read nothing of it.
fn check(text: &str) -> Result<(), String> {
    let advice = "put the whole PEM text there, from BEGIN to END CERTIFICATE";
    let mut rest = text;
    let mut found = 0;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (body, next) = after.split_once(END).ok_or_else(|| format!("the certificate has no end; {advice}"))?;
        let compact: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        // DER: a sequence of more than a few bytes.
        match STANDARD.decode(compact) {
            Ok(bytes) if bytes.first() == Some(&0x30) && bytes.len() > 2 => found += 1,
            _ => return Err(format!("this is no certificate: its base64 is damaged; {advice}")),
        }
        rest = next;
    }
    if text.contains("PRIVATE KEY-----") {
        return Err("a private key stands in it, and the trust store is for everybody to read; remove it".to_owned());
    }
    if found == 0 { Err(format!("this is no certificate; {advice}")) } else { Ok(()) }
}

/// Takes every certificate out of Debian's list.
fn deselect(system: &System) -> std::io::Result<()> {
    let old = text_or_empty(system, LIST)?;
    let is_chosen = |line: &&str| !line.trim().is_empty() && !line.starts_with(['#', '!']);
    if !old.lines().any(|line| is_chosen(&line)) {
        return Ok(());
    }
    let mut text = String::new();
    for line in old.lines() {
        if is_chosen(&line) {
            if !text.lines().any(|line| line == NOTE) && !old.contains(NOTE) {
                text.push_str(NOTE);
                text.push('\n');
            }
            text.push('!');
        }
        text.push_str(line);
        text.push('\n');
    }
    system.write(LIST, text, FileOptions::default())
}

/// Removes Red Hat's own certificates; those that were added by hand lie in another folder.
fn remove_sources(system: &System) -> std::io::Result<()> {
    for name in system.list(SOURCES)? {
        let path = format!("{SOURCES}/{name}");
        if system.metadata(&path).is_ok_and(|found| found.is_file()) {
            system.remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// The beginning of a real certificate is enough: nothing here reads further.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIBtjCCAVugAwIBAgITBmyf1XSXNmY/Owua2eiedgPySjAKBggqhkjOPQQDAjA5\n-----END CERTIFICATE-----\n";

    fn document(key: &str, remove: &str) -> String {
        let pem = PEM.replace('\n', "\n    ");
        format!("{key}:\n  {remove}: true\n  trusted:\n  - single_line_cert\n  - |\n    {pem}\n")
    }

    /// A tree whose updating program tells that it ran, and with what.
    fn machine(tree: &std::path::Path, user_data: &str, distro: &str) -> Option<Context> {
        let context = testing::machine(tree, &["/usr/bin/dash"], user_data)?;
        let script = "#!/usr/bin/dash\necho \"$0 $*\" >> /ran\n";
        for path in ["/usr/sbin/update-ca-certificates", "/usr/bin/update-ca-trust"] {
            testing::executable(&context.system, path, script);
        }
        context.system.write("/etc/os-release", distro, FileOptions::default()).unwrap();
        Some(context)
    }

    #[test]
    fn debian_keeps_a_good_certificate_beside_a_bad_one_under_both_names_of_the_key() {
        for (key, remove) in [("ca_certs", "remove_defaults"), ("ca-certs", "remove-defaults")] {
            let tree = tempfile::tempdir().unwrap();
            let Some(mut context) = machine(tree.path(), &document(key, remove), "ID=debian") else { return };
            context.system.write(LIST, "# a list\n\nmozilla/A.crt\n!mozilla/B.crt\n", FileOptions::default()).unwrap();
            for _ in 0..2 {
                let failure = context.run_handler::<CaCerts>().unwrap_err();
                assert_eq!(failure.reason, Reason::Config);
                let sentence = format!("{key}.trusted[0]: this is no certificate; put the whole PEM text there");
                assert!(failure.message.starts_with(&sentence), "{}", failure.message);
            }
            let folder = "/usr/local/share/ca-certificates";
            assert_eq!(context.system.list(folder).unwrap(), ["cloud-init-ca-cert-2.crt"]);
            assert_eq!(
                context.system.read_text(format!("{folder}/cloud-init-ca-cert-2.crt")).unwrap().trim(),
                PEM.trim()
            );
            let list = context.system.read_text(LIST).unwrap();
            assert_eq!(list, format!("# a list\n\n{NOTE}\n!mozilla/A.crt\n!mozilla/B.crt\n"));
            let ran = context.system.read_text("/ran").unwrap();
            assert_eq!(ran, "/usr/sbin/update-ca-certificates \n".repeat(2));
        }
    }

    #[test]
    fn red_hat_has_its_own_folder_and_program() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = document("ca_certs", "remove_defaults").replace("  - single_line_cert\n", "");
        let Some(mut context) = machine(tree.path(), &user_data, "ID=rocky\nID_LIKE=rhel") else { return };
        let bundle = format!("{SOURCES}/ca-bundle.trust.p11-kit");
        context.system.write(&bundle, "x", FileOptions::default()).unwrap();
        context.run_handler::<CaCerts>().unwrap();
        assert!(!context.system.exists(&bundle));
        assert!(context.system.exists(format!("{SOURCES}/anchors/cloud-init-ca-cert-1.crt")));
        assert_eq!(context.system.read_text("/ran").unwrap(), "/usr/bin/update-ca-trust extract\n");
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_what_is_wrong() {
        let key = PEM.replace(END, "-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nhunter2\n");
        for (text, sentence) in [
            ("", "this is no certificate"),
            ("-----BEGIN CERTIFICATE-----\nMIIB", "has no end"),
            ("-----BEGIN CERTIFICATE-----\nYOUR-CERT-HERE\n-----END CERTIFICATE-----", "its base64 is damaged"),
            ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----", "its base64 is damaged"),
            (&key, "a private key stands in it"),
        ] {
            let why = check(text).unwrap_err();
            assert!(why.contains(sentence) && !why.contains("hunter2"), "{text}: {why}");
        }
        assert_eq!(check(&PEM.repeat(2)), Ok(()));
    }

    #[test]
    fn an_image_without_the_program_is_told_and_nothing_given_is_nothing_to_do() {
        let tree = tempfile::tempdir().unwrap();
        let failure = Context::for_test(tree.path(), "ca_certs: {remove_defaults: true}").run_handler::<CaCerts>();
        let message = failure.unwrap_err().message;
        assert_eq!(
            message,
            "update-ca-certificates is not installed; install the package ca-certificates into the image"
        );
        for user_data in ["ca_certs:", "ca_certs: {trusted: []}"] {
            let outcome = Context::for_test(tree.path(), user_data).run_handler::<CaCerts>();
            assert!(matches!(outcome, Ok(Outcome::Skipped(Reason::NothingToDo, _))));
        }
    }
}
