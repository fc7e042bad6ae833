//! `ovf-env.xml`: what Azure writes on a disk for the first boot of a machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::xml;

/// What stands in place of a password that was taken out.
pub const REDACTED: &str = "REDACTED";
const SECRET: [&str; 2] = ["UserPassword", "AdminPassword"];

/// What the document tells.
#[derive(Default)]
pub struct Ovf {
    /// The user that the machine is ordered with.
    pub user: Option<String>,
    /// His password. No `Debug`: it reaches no message.
    pub password: Option<String>,
    /// Whether sshd is to take no passwords.
    pub no_password_login: Option<bool>,
    /// The host name.
    pub hostname: Option<String>,
    /// Public keys that stand in it; others are named by their fingerprint only.
    pub public_keys: Vec<String>,
    /// Whether the machine waits in a pool for what it is to be.
    pub is_of_pool: bool,
    /// The user-data.
    pub custom_data: Vec<u8>,
    /// The document without its passwords.
    pub redacted: String,
}

/// Reads the document.
///
/// # Errors
/// What is wrong with it, and no word of its content.
pub fn parse(bytes: &[u8]) -> Result<Ovf, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let root = xml::parse(text)?;
    let set = root.find("LinuxProvisioningConfigurationSet");
    let set =
        set.ok_or_else(|| "it has no LinuxProvisioningConfigurationSet; this is no Linux machine of Azure".to_owned())?;
    let own = |name: &str| set.text(name).map(str::to_owned);
    let mut keys = Vec::new();
    if let Some(ssh) = set.find("PublicKeys") {
        ssh.all("PublicKey", &mut keys);
    }
    let custom_data: String = own("CustomData").unwrap_or_default().split_whitespace().collect();
    let custom_data = STANDARD.decode(custom_data).map_err(|_| "its CustomData is not base64".to_owned())?;
    Ok(Ovf {
        user: own("UserName"),
        password: SECRET.into_iter().find_map(own).filter(|password| password != REDACTED),
        no_password_login: own("DisableSshPasswordAuthentication").map(|word| word.eq_ignore_ascii_case("true")),
        hostname: own("HostName"),
        public_keys: keys.iter().filter_map(|key| key.text("Value")).map(str::to_owned).collect(),
        is_of_pool: root.text("PreprovisionedVm").is_some_and(|word| word.eq_ignore_ascii_case("true")),
        custom_data,
        redacted: without_passwords(text, &root),
    })
}

fn without_passwords(text: &str, root: &xml::Element) -> String {
    let mut places: Vec<_> = SECRET.into_iter().flat_map(|name| root.places(name)).collect();
    places.retain(|place| !place.is_empty());
    // From the end, so that the places before it stay where they are.
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    let mut redacted = text.to_owned();
    for place in places {
        redacted.replace_range(place, REDACTED);
    }
    redacted
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A document with a password and a script.
    pub const DOCUMENT: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<ns0:Environment xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns1="http://schemas.microsoft.com/windowsazure">
  <ns1:ProvisioningSection>
    <ns1:Version>1.0</ns1:Version>
    <ns1:LinuxProvisioningConfigurationSet>
      <ns1:ConfigurationSetType>LinuxProvisioningConfiguration</ns1:ConfigurationSetType>
      <ns1:UserName>operator</ns1:UserName>
      <ns1:UserPassword>hunter2&lt;&amp;</ns1:UserPassword>
      <ns1:HostName>web</ns1:HostName>
      <ns1:DisableSshPasswordAuthentication>false</ns1:DisableSshPasswordAuthentication>
      <ns1:CustomData>IyEvYmlu
        L3NoCg==</ns1:CustomData>
      <ns1:SSH><ns1:PublicKeys>
        <ns1:PublicKey><ns1:Fingerprint>6BE7</ns1:Fingerprint><ns1:Path>/x</ns1:Path><ns1:Value>ssh-rsa AAAA me</ns1:Value></ns1:PublicKey>
        <ns1:PublicKey><ns1:Fingerprint>7CE8</ns1:Fingerprint><ns1:Path>/x</ns1:Path><ns1:Value/></ns1:PublicKey>
      </ns1:PublicKeys></ns1:SSH>
    </ns1:LinuxProvisioningConfigurationSet>
  </ns1:ProvisioningSection>
  <ns1:PlatformSettingsSection><ns1:PlatformSettings><ns1:PreprovisionedVm>false</ns1:PreprovisionedVm></ns1:PlatformSettings></ns1:PlatformSettingsSection>
</ns0:Environment>
"#;

    #[test]
    fn everything_is_read_and_the_copy_has_no_password() {
        let ovf = parse(DOCUMENT.as_bytes()).unwrap();
        assert_eq!((ovf.user.as_deref(), ovf.password.as_deref()), (Some("operator"), Some("hunter2<&")));
        assert_eq!((ovf.hostname.as_deref(), ovf.no_password_login), (Some("web"), Some(false)));
        assert_eq!(ovf.custom_data, b"#!/bin/sh\n");
        assert_eq!(ovf.public_keys, ["ssh-rsa AAAA me"]);
        assert_eq!(ovf.redacted, DOCUMENT.replace("hunter2&lt;&amp;", "REDACTED"));
        assert!(!ovf.is_of_pool);
        assert!(parse(DOCUMENT.replace("Vm>false", "Vm>true").as_bytes()).unwrap().is_of_pool);
        let again = parse(ovf.redacted.as_bytes()).unwrap();
        assert_eq!((again.password, again.custom_data), (None, ovf.custom_data));
    }

    #[test]
    fn a_document_without_optional_parts_is_one() {
        let ovf =
            parse(b"<E><LinuxProvisioningConfigurationSet><UserPassword/></LinuxProvisioningConfigurationSet></E>")
                .unwrap();
        assert!(ovf.password.is_none() && ovf.user.is_none() && ovf.custom_data.is_empty());
        assert!(ovf.redacted.contains("<UserPassword/>"));
    }

    #[test]
    fn a_document_that_cannot_be_used_is_told_without_its_text() {
        let of = |inner: &str| {
            format!("<E><LinuxProvisioningConfigurationSet>{inner}</LinuxProvisioningConfigurationSet></E>")
        };
        for (bytes, why) in [
            (b"<a/>".to_vec(), "it has no LinuxProvisioningConfigurationSet"),
            (b"\xff".to_vec(), "it is not UTF-8"),
            (of("<CustomData>hunter2!</CustomData>").into_bytes(), "its CustomData is not base64"),
            (of("<UserPassword>hunter2").into_bytes(), "line 1: an element ends that is not the one"),
        ] {
            let told = parse(&bytes).map(|_| ()).unwrap_err();
            assert!(told.starts_with(why) && !told.contains("hunter2"), "{told}");
        }
    }
}
