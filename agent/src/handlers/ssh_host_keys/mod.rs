//! The machine's own SSH keys. Those that are quick to make are made here, before sshd starts; the
//! search for the primes of an RSA key takes a second and is left to the final stage.

mod config;

use std::thread;
use std::time::Duration;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::Node;
use serde_json::{Map, json};

pub use config::{Config, Kind};
use config::{FOLDER, Given};

use super::{Failure, Frequency, Handled, Handler, Outcome, check};
use crate::context::Context;
use crate::names::Names;
use crate::ssh::{self, PublicKey};
use crate::system::{FileOptions, System};

/// Tells sshd of host certificates, where it reads drop-ins.
const CERTIFICATES: &str = "/etc/ssh/sshd_config.d/50-kiln-host-certificates.conf";

/// Makes the host keys of a new instance.
pub struct SshHostKeys;

impl Handler for SshHostKeys {
    const NAME: &'static str = "ssh_host_keys";
    const SUMMARY: &'static str = "Makes or installs the SSH host keys of a new instance";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(60);
    const ALWAYS: bool = true;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        check::words(config, "ssh_genkeytypes", &["rsa", "ecdsa", "ed25519"])
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let asked = ["ssh_keys", "ssh_genkeytypes"].iter().any(|key| context.config.get(key).is_some());
        if !asked && !has_sshd(&context.system) {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "this image has no sshd".to_owned()));
        }
        // Without an instance nobody says that the keys of this disk are someone else's.
        let is_instance = context.instance.source != "none";
        let removed = if config.ssh_deletekeys && is_instance { remove_all(&context.system)? } else { 0 };
        let mut problems: Vec<Failure> = Vec::new();
        let mut made = Map::new();
        for kind in Kind::ALL {
            let given = config.ssh_keys.of(kind);
            if !is_instance && kind.is_there(&context.system) {
                continue;
            }
            match install(kind, &given, context) {
                Ok(Some(key)) => drop(made.insert(kind.name().to_owned(), json!(key.fingerprint()))),
                Ok(None) => {}
                Err(failure) => problems.push(failure),
            }
        }
        let (_, unknown) = config.wanted(&context.system);
        problems.extend(unknown.into_iter().map(|name| {
            let message = format!("ssh_genkeytypes: `{name}` is not made; there are rsa, ecdsa and ed25519");
            Failure::new(Reason::Unsupported, message)
        }));
        let (now, _) = config.plan(&context.system);
        let missing: Vec<Kind> = now.into_iter().filter(|kind| !kind.is_there(&context.system)).collect();
        for (kind, result) in generate_all(&missing, context) {
            match result {
                Ok(key) => drop(made.insert(kind.name().to_owned(), json!(key.fingerprint()))),
                Err(failure) => problems.push(failure),
            }
        }
        // sshd does not start without a key, and a mistake in the user-data must not lock everyone out.
        if !problems.is_empty() && !Kind::ALL.iter().any(|kind| kind.is_there(&context.system)) {
            for (kind, result) in generate_all(&[Kind::Ecdsa, Kind::Ed25519], context) {
                made.extend(result.ok().map(|key| (kind.name().to_owned(), json!(key.fingerprint()))));
            }
        }
        let refreshed = if made.is_empty() { Ok(None) } else { ssh::refresh_sshd(context, ssh::KEYS_NOT_OFFERED) };
        problems.extend(refreshed.err());
        let detail = json!({"removed": removed, "keys": made});
        match Failure::all(problems) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Whether this image can offer host keys at all.
pub fn has_sshd(system: &System) -> bool {
    ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd", ssh::SSHD_CONFIG].iter().any(|path| system.exists(path))
}

/// Removes every host key, public part and certificate, and gives their number.
fn remove_all(system: &System) -> Result<usize, Failure> {
    let names = system.list(FOLDER)?;
    let ours = names.iter().filter(|name| name.starts_with("ssh_host_") && name.contains("key"));
    ours.map(|name| system.remove(format!("{FOLDER}/{name}")).map_err(Failure::from)).try_fold(0, |n, done| {
        done?;
        Ok(n + 1)
    })
}

/// Makes keys side by side, the last of them on this thread.
fn generate_all(kinds: &[Kind], context: &Context) -> Vec<(Kind, Result<PublicKey, Failure>)> {
    let Some((last, others)) = kinds.split_last() else { return Vec::new() };
    thread::scope(|scope| {
        let running: Vec<_> = others.iter().map(|kind| (*kind, scope.spawn(|| generate(*kind, context)))).collect();
        let own = generate(*last, context);
        let panicked = |_| Err(Failure::new(Reason::Panicked, "a bug in the making of host keys; please report it"));
        let made = running.into_iter().map(|(kind, thread)| (kind, thread.join().unwrap_or_else(panicked)));
        made.chain([(*last, own)]).collect()
    })
}

/// Makes a key beside its place and moves it there whole, the private part last: a crash leaves either
/// a key or none.
pub fn generate(kind: Kind, context: &Context) -> Result<PublicKey, Failure> {
    let name = kind.name();
    with_workplace(kind, &context.system, |folder| {
        let comment = format!("root@{}", Names::present(context).short);
        let command = context.command("ssh-keygen").args(["-q", "-t", name, "-N", "", "-C", &comment, "-f"]);
        let done = context.run(&command.arg(format!("{folder}/key"))).map_err(explained)?;
        if !done.success() {
            let said = done.last_lines(2).join("; ");
            let message = format!("no {name} host key: ssh-keygen {}: {said}", done.ending());
            return Err(Failure::new(Reason::CommandFailed, message));
        }
        let private = context.system.read(format!("{folder}/key"))?;
        let line = context.system.read_text(format!("{folder}/key.pub"))?;
        let key = PublicKey::parse(&line)
            .map_err(|why| Failure::new(Reason::CommandFailed, format!("ssh-keygen made no {name} key: {why}")))?;
        put(kind, &private, &key, &context.system)?;
        Ok(key)
    })
}

/// Installs a key from the user-data; none if none is given.
fn install(kind: Kind, given: &Given<'_>, context: &Context) -> Result<Option<PublicKey>, Failure> {
    let name = kind.name();
    let refuse = |message: String| Err(Failure::new(Reason::Config, message));
    let Some(private) = given.private else {
        return match given.public.or(given.certificate) {
            Some(_) => refuse(format!("ssh_keys: the {name} key has no {name}_private")),
            None => Ok(None),
        };
    };
    let private = format!("{}\n", private.replace('\r', "").trim());
    let key = with_workplace(kind, &context.system, |folder| {
        let place = format!("{folder}/key");
        context.system.write(&place, &private, FileOptions::mode(0o600))?;
        let command = context.command("ssh-keygen").args(["-y", "-P", "", "-f", &place]);
        let done = context.run(&command).map_err(explained)?;
        // What ssh-keygen says names a temporary file and may quote the key.
        match PublicKey::parse(&done.text()) {
            Ok(key) if done.success() && kind.fits(&key) => Ok(key),
            Ok(key) if done.success() => {
                let message = format!("ssh_keys.{name}_private is a key of another kind, {}", key.kind);
                Err(Failure::new(Reason::Config, message))
            }
            _ => {
                let message = format!("ssh_keys.{name}_private is not a private key without a passphrase");
                Err(Failure::new(Reason::Config, message))
            }
        }
    })?;
    let key = match given.public.map(PublicKey::parse) {
        Some(Ok(public)) if public.material == key.material => public,
        Some(Ok(_)) => return refuse(format!("ssh_keys.{name}_public does not belong to {name}_private")),
        Some(Err(why)) => return refuse(format!("ssh_keys.{name}_public is not a public key: {why}")),
        None => key,
    };
    put(kind, private.as_bytes(), &key, &context.system)?;
    if let Some(certificate) = given.certificate {
        certify(kind, certificate, &context.system)?;
    }
    Ok(Some(key))
}

/// Puts both parts in place, the private one last.
fn put(kind: Kind, private: &[u8], public: &PublicKey, system: &System) -> Result<(), Failure> {
    let options = |mode| FileOptions { owner: Some((0, 0)), ..FileOptions::mode(mode).durable() };
    let path = kind.path();
    // The old private key must not stand beside the new public one.
    system.remove(&path)?;
    system.write(format!("{path}.pub"), public.line() + "\n", options(0o644))?;
    system.write(&path, private, options(0o600))?;
    Ok(())
}

/// Installs a host certificate and tells sshd to offer it.
fn certify(kind: Kind, certificate: &str, system: &System) -> Result<(), Failure> {
    let name = kind.name();
    let certificate = PublicKey::parse(certificate).ok().filter(|key| key.kind.ends_with("-cert-v01@openssh.com"));
    let Some(certificate) = certificate else {
        let message = format!("ssh_keys.{name}_certificate is not a certificate as ssh-keygen -s writes it");
        return Err(Failure::new(Reason::Config, message));
    };
    let path = kind.path() + "-cert.pub";
    system.write(&path, certificate.line() + "\n", FileOptions::mode(0o644))?;
    let known = ssh::sshd_settings(system, "HostCertificate");
    if known.iter().flatten().any(|value| *value == path) {
        return Ok(());
    }
    // In the main file it goes to the top: the end may lie inside a Match block.
    let (file, old) = match ssh::reads_dropins(system) {
        true => (CERTIFICATES, system.read_text(CERTIFICATES).unwrap_or_default()),
        false => (ssh::SSHD_CONFIG, ssh::sshd_config(system)),
    };
    system.write(file, format!("HostCertificate {path}\n{old}"), FileOptions::default())?;
    Ok(())
}

/// Runs work in a folder that root alone can enter, beside the keys, and removes it.
fn with_workplace<T>(kind: Kind, system: &System, work: impl FnOnce(&str) -> Result<T, Failure>) -> Result<T, Failure> {
    let folder = format!("{FOLDER}/.kiln-{}", kind.name());
    system.remove(&folder)?;
    system.make_dir(FOLDER, 0o755, None)?;
    system.make_dir(&folder, 0o700, None)?;
    let done = work(&folder);
    let removed = system.remove(&folder);
    let done = done?;
    removed?;
    Ok(done)
}

fn explained(error: crate::system::RunError) -> Failure {
    let failure = Failure::from(error);
    match failure.reason {
        Reason::MissingProgram => {
            let message =
                "ssh-keygen is not installed, so there are no host keys; install OpenSSH's client in the image";
            Failure::new(Reason::MissingProgram, message)
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ssh_rsa_host_key::SshRsaHostKey;
    use super::*;
    use crate::testing::machine;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    const KEYGEN: &[&str] = &["/usr/bin/ssh-keygen"];

    fn key_of(context: &Context, kind: Kind) -> Option<PublicKey> {
        PublicKey::parse(&context.system.read_text(kind.path() + ".pub").ok()?).ok()
    }

    fn with_sshd(tree: &std::path::Path, user_data: &str) -> Option<Context> {
        let context = machine(tree, KEYGEN, user_data)?;
        context.system.write(ssh::SSHD_CONFIG, "# sshd\n", FileOptions::default()).unwrap();
        context.system.write(Kind::Rsa.path(), "baked", FileOptions::mode(0o600)).unwrap();
        context.system.write("/etc/ssh/ssh_host_dsa_key.pub", "baked", FileOptions::default()).unwrap();
        Some(context)
    }

    #[test]
    fn keys_of_the_image_give_way_and_rsa_comes_in_the_final_stage() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = with_sshd(tree.path(), "hostname: web") else { return };
        let Ok(Outcome::Ok(Some(detail))) = context.run_handler::<SshHostKeys>() else { panic!("not ok") };
        let names = context.system.list(FOLDER).unwrap();
        let expected = [
            "ssh_host_ecdsa_key",
            "ssh_host_ecdsa_key.pub",
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
            "sshd_config",
        ];
        assert_eq!(names, expected);
        let key = key_of(&context, Kind::Ed25519).unwrap();
        assert_eq!((detail["removed"].as_u64(), &detail["keys"]["ed25519"]), (Some(2), &json!(key.fingerprint())));
        assert_eq!(key.comment, "root@web");
        for (path, mode) in [(Kind::Ecdsa.path(), 0o600), (Kind::Ecdsa.path() + ".pub", 0o644)] {
            assert_eq!(context.system.metadata(path).unwrap().permissions().mode() & 0o7777, mode);
        }
        let handled = context.run_handler::<SshRsaHostKey>();
        assert!(matches!(handled, Ok(Outcome::Ok(_))), "{handled:?}");
        assert!(Kind::Rsa.fits(&key_of(&context, Kind::Rsa).unwrap()));
        assert_eq!(key_of(&context, Kind::Ed25519).unwrap(), key);
        assert!(matches!(context.run_handler::<SshRsaHostKey>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }

    #[test]
    fn without_an_instance_keys_are_only_added() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = with_sshd(tree.path(), "{}") else { return };
        Arc::make_mut(&mut context.instance).source = "none".to_owned();
        context.run_handler::<SshHostKeys>().unwrap();
        let ed25519 = key_of(&context, Kind::Ed25519).unwrap();
        assert_eq!(context.system.read_text(Kind::Rsa.path()).unwrap(), "baked");
        context.run_handler::<SshHostKeys>().unwrap();
        assert_eq!(key_of(&context, Kind::Ed25519).unwrap(), ed25519);
    }

    #[test]
    fn a_given_key_is_installed_with_its_derived_public_part_and_nothing_else_is_made() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = with_sshd(tree.path(), "{}") else { return };
        let made = generate(Kind::Rsa, &context).unwrap();
        let private = context.system.read_text(Kind::Rsa.path()).unwrap();
        let indented = private.replace('\n', "\r\n    ");
        let user_data = format!("ssh_keys:\n  rsa_private: |\n    {indented}\n  ed25519_private: nonsense\n");
        let (config, _) = kiln_schema::yaml::parse("user-data", &user_data).unwrap();
        context.config = Arc::new(config);
        let failure = context.run_handler::<SshHostKeys>().unwrap_err();
        let message = "ssh_keys.ed25519_private is not a private key without a passphrase";
        assert_eq!((failure.reason, failure.message.as_str()), (Reason::Config, message));
        assert_eq!(key_of(&context, Kind::Rsa).unwrap().material, made.material);
        assert_eq!(context.system.read_text(Kind::Rsa.path()).unwrap(), private);
        assert!(!Kind::Ecdsa.is_there(&context.system));
        assert!(!context.system.exists("/etc/ssh/.kiln-rsa"));
    }

    #[test]
    fn a_mistake_in_every_given_key_leaves_sshd_with_keys_of_its_own() {
        for user_data in ["ssh_keys: {rsa_private: nonsense}", "ssh_genkeytypes: [dsa]"] {
            let tree = tempfile::tempdir().unwrap();
            let Some(mut context) = with_sshd(tree.path(), user_data) else { return };
            let failure = context.run_handler::<SshHostKeys>().unwrap_err();
            assert!(failure.detail.unwrap()["keys"]["ed25519"].is_string(), "{user_data}");
            assert!(Kind::Ecdsa.is_there(&context.system) && !Kind::Rsa.is_there(&context.system), "{user_data}");
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = with_sshd(tree.path(), "{}") else { return };
        generate(Kind::Ed25519, &context).unwrap();
        let private = context.system.read_text(Kind::Ed25519.path()).unwrap();
        let other = ssh::tests::ED25519;
        let given = |public, certificate| Given { private: Some(&private), public, certificate };
        for (kind, given, why) in [
            (Kind::Ed25519, given(Some(other), None), "ssh_keys.ed25519_public does not belong to ed25519_private"),
            (Kind::Ed25519, given(Some("x"), None), "ssh_keys.ed25519_public is not a public key"),
            (Kind::Ed25519, given(None, Some(other)), "ssh_keys.ed25519_certificate is not a certificate"),
            (Kind::Rsa, given(None, None), "ssh_keys.rsa_private is a key of another kind, ssh-ed25519"),
            (
                Kind::Rsa,
                Given { private: None, public: Some(other), certificate: None },
                "ssh_keys: the rsa key has no",
            ),
        ] {
            let failure = install(kind, &given, &context).unwrap_err();
            assert!(failure.message.starts_with(why), "{}", failure.message);
            assert!(!failure.message.contains("BEGIN"), "{}", failure.message);
        }
    }

    #[test]
    fn a_missing_ssh_keygen_is_a_failure_only_where_keys_are_wanted() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "{}");
        assert!(matches!(context.run_handler::<SshHostKeys>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
        let mut context = Context::for_test(tree.path(), "ssh_genkeytypes: [ed25519, dsa]");
        let failure = context.run_handler::<SshHostKeys>().unwrap_err();
        assert!(failure.message.contains("`dsa` is not made"), "{}", failure.message);
        if nix::unistd::geteuid().is_root() {
            assert!(failure.message.contains("ssh-keygen is not installed"), "{}", failure.message);
        }
    }

    #[test]
    fn a_certificate_is_made_known_to_sshd_once() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let kind = "ssh-ed25519-cert-v01@openssh.com";
        let mut bytes = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(kind.as_bytes());
        bytes.extend([7; 40]);
        let line = format!("{kind} {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes));
        system.write(ssh::SSHD_CONFIG, "Port 22\nMatch User x\n", FileOptions::default()).unwrap();
        for _ in 0..2 {
            certify(Kind::Ed25519, &line, &system).unwrap();
        }
        let text = "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\nPort 22\nMatch User x\n";
        assert_eq!(system.read_text(ssh::SSHD_CONFIG).unwrap(), text);
        system.write(ssh::SSHD_CONFIG, "Include /etc/ssh/sshd_config.d/*.conf\n", FileOptions::default()).unwrap();
        certify(Kind::Ed25519, &line, &system).unwrap();
        assert!(system.read_text(CERTIFICATES).unwrap().starts_with("HostCertificate "));
    }
}
