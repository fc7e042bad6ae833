//! What handlers share about OpenSSH: public keys, sshd's configuration, sshd itself.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::context::Context;
use crate::handlers::Failure;
use crate::system::{Command, System};
use kiln_schema::status::Reason;

/// sshd's own configuration, the administrator's file.
pub const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";
/// The vendor's, which sshd reads where the administrator has none, as SUSE has it.
const VENDOR_CONFIG: &str = "/usr/etc/ssh/sshd_config";
/// Drop-ins, where the main file includes them.
pub const SSHD_CONFIG_DROPINS: &str = "/etc/ssh/sshd_config.d";
/// The service, as Debian and as Red Hat name it.
const UNITS: [&str; 2] = ["ssh.service", "sshd.service"];

/// A public key, as a line of an authorized_keys file or of a `.pub` file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// What stands before the key: `from="10.0.0.0/8",no-pty`; often nothing.
    pub options: String,
    /// `ssh-ed25519`.
    pub kind: String,
    /// The key itself, in base64.
    pub material: String,
    /// What stands after it; often nothing.
    pub comment: String,
}

impl PublicKey {
    /// Reads a line.
    ///
    /// # Errors
    /// Why it is none, without its text: it may be a secret pasted by mistake.
    pub fn parse(line: &str) -> Result<Self, &'static str> {
        let line = line.trim();
        if line.starts_with("-----BEGIN") {
            return Err("it is a private key or a certificate file; give the line of the .pub file");
        }
        if line.split([' ', '\t']).next().is_some_and(is_kind) {
            return Self::after_options("", line);
        }
        let (options, rest) = split_options(line);
        Self::after_options(options, rest)
    }

    fn after_options(options: &str, rest: &str) -> Result<Self, &'static str> {
        let (kind, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        let rest = rest.trim_start();
        let (material, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        if !is_kind(kind) {
            return Err("it does not begin with a kind of key such as ssh-ed25519");
        }
        let bytes = STANDARD.decode(material).map_err(|_| "the key is cut short or not in base64")?;
        // Every key repeats its kind inside, after a length of four bytes.
        let inner = bytes.get(4..4 + kind.len());
        let length = bytes.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize);
        if length != Some(kind.len()) || inner != Some(kind.as_bytes()) || bytes.len() < kind.len() + 20 {
            return Err("the key is damaged: its inside does not fit its kind");
        }
        Ok(PublicKey {
            options: options.to_owned(),
            kind: kind.to_owned(),
            material: material.to_owned(),
            comment: comment.trim().to_owned(),
        })
    }

    /// The line, without its newline.
    pub fn line(&self) -> String {
        let parts = [&self.options, &self.kind, &self.material, &self.comment];
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    }

    /// Bits, fingerprint, comment and kind, as `ssh-keygen -l` prints them.
    pub fn fingerprint_line(&self) -> String {
        let comment = if self.comment.is_empty() { "no comment" } else { &self.comment };
        let (bits, label) = self.bits_and_label();
        format!("{bits} {} {comment} ({label})", self.fingerprint())
    }

    fn bits_and_label(&self) -> (usize, String) {
        let kind = self.kind.trim_end_matches("@openssh.com");
        let sk = if kind.starts_with("sk-") { "-SK" } else { "" };
        let kind = kind.trim_start_matches("sk-");
        if let Some(curve) = kind.strip_prefix("ecdsa-sha2-nistp") {
            return (curve.parse().unwrap_or(256), format!("ECDSA{sk}"));
        }
        match kind {
            "ssh-rsa" => (self.modulus_bits(), "RSA".to_owned()),
            "ssh-dss" => (1024, "DSA".to_owned()),
            other => (256, format!("{}{sk}", other.trim_start_matches("ssh-").to_uppercase())),
        }
    }

    /// The bits of an RSA key: of the third field, a number with a zero byte before a set first bit.
    fn modulus_bits(&self) -> usize {
        let bytes = STANDARD.decode(&self.material).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut field = &bytes[..0];
        for _ in 0..3 {
            let Some((length, behind)) = rest.split_first_chunk::<4>() else { return 0 };
            let length = u32::from_be_bytes(*length) as usize;
            let Some((this, behind)) = behind.split_at_checked(length) else { return 0 };
            (field, rest) = (this, behind);
        }
        let number = field.iter().position(|byte| *byte != 0).map_or(&field[..0], |first| &field[first..]);
        number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
    }

    /// `SHA256:…`, as ssh shows it at the first connection.
    pub fn fingerprint(&self) -> String {
        let bytes = STANDARD.decode(&self.material).unwrap_or_default();
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(bytes)))
    }
}

/// How a fingerprint in hexadecimal digits is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// SHA-256, as OpenSSH's own.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// The word in the user-data.
    pub fn name(self) -> &'static str {
        match self {
            Digest::Sha256 => "sha256",
            Digest::Sha384 => "sha384",
            Digest::Sha512 => "sha512",
        }
    }

    /// The fingerprint of a key: pairs of hexadecimal digits with colons between.
    pub fn of(self, key: &PublicKey) -> String {
        let bytes = STANDARD.decode(&key.material).unwrap_or_default();
        let digest = match self {
            Digest::Sha256 => Sha256::digest(bytes).to_vec(),
            Digest::Sha384 => Sha384::digest(bytes).to_vec(),
            Digest::Sha512 => Sha512::digest(bytes).to_vec(),
        };
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }
}

fn is_kind(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-", "rsa-sha2-"].iter().any(|start| word.starts_with(start))
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'@' | b'.'))
}

/// Options end at the first blank outside of quotes; `\"` inside of quotes ends none.
fn split_options(line: &str) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return (&line[..at], line[at..].trim_start()),
            _ => {}
        }
    }
    (line, "")
}

/// The values that sshd would use for a keyword: the first occurrence counts, drop-ins where they are included.
/// `Match` blocks are not looked into.
pub fn sshd_setting(system: &System, keyword: &str) -> Vec<String> {
    sshd_settings(system, keyword).into_iter().next().unwrap_or_default()
}

/// Every occurrence of a keyword, in the order in which sshd reads them.
pub fn sshd_settings(system: &System, keyword: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let owned = |values: &str| values_of(values).map(str::to_owned).collect();
    for (first, values) in lines_of(&sshd_config(system)) {
        if first.eq_ignore_ascii_case(keyword) {
            found.push(owned(values));
        }
        for folder in included(first, values) {
            let names = system.list(&folder).unwrap_or_default();
            for name in names.iter().filter(|name| name.ends_with(".conf")) {
                let text = system.read_text(format!("{folder}/{name}")).unwrap_or_default();
                let lines = lines_of(&text).filter(|(first, _)| first.eq_ignore_ascii_case(keyword));
                found.extend(lines.map(|(_, values)| owned(values)));
            }
        }
    }
    found
}

/// The text of the file that sshd reads; empty where there is none.
pub fn sshd_config(system: &System) -> String {
    let text = system.read_text(SSHD_CONFIG).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => system.read_text(VENDOR_CONFIG),
        _ => Err(error),
    });
    text.unwrap_or_default()
}

/// Whether sshd reads [`SSHD_CONFIG_DROPINS`].
pub fn reads_dropins(system: &System) -> bool {
    lines_of(&sshd_config(system)).any(|(first, values)| included(first, values).any(|it| it == SSHD_CONFIG_DROPINS))
}

/// The folders whose drop-ins a line includes. A name without a folder is one of sshd's own.
fn included(keyword: &str, values: &str) -> impl Iterator<Item = String> {
    let values = if keyword.eq_ignore_ascii_case("Include") { values } else { "" };
    let folders = values_of(values).filter_map(|value| value.trim_matches('"').strip_suffix("/*.conf"));
    folders.map(|folder| if folder.starts_with('/') { folder.to_owned() } else { format!("/etc/ssh/{folder}") })
}

/// The lines before the first `Match`, each as its keyword and the rest.
fn lines_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    // Most lines are comments.
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = lines.map(|line| line.split_once([' ', '\t', '=']).unwrap_or((line, "")));
    split.take_while(|(keyword, _)| !keyword.eq_ignore_ascii_case("Match"))
}

/// The values in the rest of a line. `Keyword=value` is a spelling too.
fn values_of(rest: &str) -> impl Iterator<Item = &str> {
    rest.trim_start_matches([' ', '\t', '=']).split_whitespace().take_while(|word| !word.starts_with('#'))
}

/// What is so until sshd has taken up new host keys.
pub const KEYS_NOT_OFFERED: &str = "the new host keys are not offered yet";

/// Lets a running sshd take up new host keys or settings, and starts one that gave up for want of a key.
/// `otherwise` says what is so as long as it has not.
///
/// It queues the work and does not wait: in the init stage sshd waits for this very stage.
///
/// # Errors
/// What systemd refused.
pub fn refresh_sshd(context: &Context, otherwise: &str) -> Result<Option<&'static str>, Failure> {
    if !context.system.is_live() || !context.system.exists("/run/systemd/system") {
        return Ok(None);
    }
    let systemctl = || Command::new("systemctl", context.time_left().min(Duration::from_secs(20)));
    for unit in UNITS {
        let state = context.run(&systemctl().args(["is-active", unit]))?.text();
        let verb = match state.as_str() {
            "active" => "reload",
            "failed" => "restart",
            _ => continue,
        };
        let done = context.run(&systemctl().args(["--no-block", verb, unit]))?;
        if !done.success() {
            let said = done.last_lines(2).join("; ");
            let message = format!("{otherwise}: systemctl {verb} {unit} {}: {said}", done.ending());
            return Err(Failure::new(Reason::CommandFailed, message));
        }
        return Ok(Some(verb));
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::system::FileOptions;

    /// A public key that belongs to nobody.
    pub const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILWs3ahk1vqyLjW1wt13HL49MpZQ7bSll6IU9Iimj30/";
    /// Another one.
    pub const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJNPFQBU7fqGbLIDfTMOQ1MX/EMcYzBue+DfipmLL8YK";

    #[test]
    fn lines_are_taken_apart_and_put_together_without_loss() {
        for (line, options, comment) in [
            (ED25519.to_owned(), "", ""),
            (format!("{ED25519} bob@example.org"), "", "bob@example.org"),
            (format!("no-pty {ED25519} two words"), "no-pty", "two words"),
            (
                format!(r#"from="10.0.0.0/8,::1",command="echo \"hi there\"; exit" {ED25519} x"#),
                r#"from="10.0.0.0/8,::1",command="echo \"hi there\"; exit""#,
                "x",
            ),
        ] {
            let key = PublicKey::parse(&format!("  {line}\r")).unwrap();
            assert_eq!((key.options.as_str(), key.comment.as_str()), (options, comment), "{line}");
            assert_eq!(key.line(), line);
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_the_reason() {
        for (line, why) in [
            ("", "does not begin"),
            ("hello", "does not begin"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
            ("ssh-ed25519", "damaged"),
            ("ssh-ed25519 AAAA", "damaged"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1Wk", "cut short"),
            ("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAILWs3ahk1vqyLjW1wt13HL49MpZQ7bSll6IU9Iimj30/", "damaged"),
            ("no-pty,from=\"x ssh-ed25519 AAAA", "does not begin"),
        ] {
            let error = PublicKey::parse(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_one_that_ssh_keygen_prints() {
        // ssh-keygen -lf of the constant above.
        let key = PublicKey::parse(ED25519).unwrap();
        assert_eq!(key.fingerprint(), "SHA256:oqEkyxDsyew23SMxIvzwryYxbf41OxLakqTcvfg5SoM");
    }

    #[test]
    fn bits_and_kinds_are_those_that_ssh_keygen_prints() {
        // A modulus of 1023 bits behind its zero byte and exponent 65537; 1024 with the first bit set.
        for (first, bits) in [(0x7f, 1023), (0x80, 1024)] {
            let number = [vec![0, first], vec![1; 127]].concat();
            let fields = [&b"ssh-rsa"[..], &[1, 0, 1], &number];
            let length = |field: &[u8]| u32::try_from(field.len()).unwrap().to_be_bytes();
            let blob: Vec<u8> = fields.into_iter().flat_map(|f| [&length(f)[..], f].concat()).collect();
            let key = PublicKey::parse(&format!("ssh-rsa {} root@a", STANDARD.encode(blob))).unwrap();
            let line = key.fingerprint_line();
            assert!(line.starts_with(&format!("{bits} SHA256:")) && line.ends_with(" root@a (RSA)"), "{line}");
        }
        let of = |kind: &str| {
            let key = PublicKey { kind: kind.to_owned(), ..PublicKey::parse(ED25519).unwrap() };
            let (bits, label) = key.bits_and_label();
            format!("{bits} {label}")
        };
        assert_eq!(of("ecdsa-sha2-nistp521"), "521 ECDSA");
        assert_eq!(of("sk-ssh-ed25519@openssh.com"), "256 ED25519-SK");
    }

    #[test]
    fn settings_are_read_in_the_order_of_sshd() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(sshd_setting(&system, "AuthorizedKeysFile").is_empty());
        let main = "# AuthorizedKeysFile no\nInclude /etc/ssh/sshd_config.d/*.conf\nauthorizedkeysfile=.ssh/b # end\nHostKey /a\nHostKey /b\nMatch User x\nHostKey /c\n";
        system.write(SSHD_CONFIG, main, FileOptions::default()).unwrap();
        assert_eq!(sshd_setting(&system, "AuthorizedKeysFile"), [".ssh/b"]);
        assert_eq!(sshd_settings(&system, "HostKey"), [["/a"], ["/b"]]);
        let dropin = "AuthorizedKeysFile .ssh/a .ssh/c\n";
        system.write("/etc/ssh/sshd_config.d/10.conf", dropin, FileOptions::default()).unwrap();
        system.write("/etc/ssh/sshd_config.d/00.off", "AuthorizedKeysFile x\n", FileOptions::default()).unwrap();
        assert_eq!(sshd_setting(&system, "AuthorizedKeysFile"), [".ssh/a", ".ssh/c"]);
        assert!(reads_dropins(&system));
    }
}
