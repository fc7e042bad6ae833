//! The bill of materials of an image: its packages, as CycloneDX 1.5.

use serde_json::{Value, json};

/// What is known of an image.
pub struct Subject<'a> {
    /// Its full name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// When it was looked at, in RFC 3339.
    pub timestamp: &'a str,
    /// A UUID of this document.
    pub serial: &'a str,
}

/// The document. `packages` has a line for each: kind, status, name, version, architecture and whoever
/// answers for it, with tabs between; `os_release` is that file of the instance.
pub fn document(subject: &Subject<'_>, packages: &str, os_release: &str) -> Value {
    let system = System::of(os_release);
    let components: Vec<_> = packages.lines().filter_map(|line| component(line, &system)).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", subject.serial),
        "version": 1,
        "metadata": {
            "timestamp": subject.timestamp,
            "tools": {"components": [{"type": "application", "name": "kiln", "version": env!("CARGO_PKG_VERSION")}]},
            "component": {
                "type": "operating-system",
                "bom-ref": subject.name,
                "name": subject.name,
                "version": subject.version,
            },
        },
        "components": components,
    })
}

/// The distribution.
struct System {
    id: String,
    version: String,
}

impl System {
    fn of(os_release: &str) -> System {
        let value = |key: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        System { id: value("ID"), version: value("VERSION_ID") }
    }
}

fn component(line: &str, system: &System) -> Option<Value> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [kind, "installed", name, version, arch, by] = fields[..] else { return None };
    // An rpm's epoch is a qualifier, and 0 is none.
    let (epoch, plain) = match (kind, version.split_once(':')) {
        ("rpm", Some((epoch, plain))) => (Some(epoch).filter(|epoch| *epoch != "0"), plain),
        _ => (None, version),
    };
    let mut qualifiers = vec![format!("arch={}", encoded(arch))];
    if !system.id.is_empty() {
        let dash = if system.version.is_empty() { "" } else { "-" };
        qualifiers.push(format!("distro={}{dash}{}", encoded(&system.id), encoded(&system.version)));
    }
    qualifiers.extend(epoch.map(|epoch| format!("epoch={epoch}")));
    let namespace = if system.id.is_empty() { String::new() } else { format!("{}/", encoded(&system.id)) };
    let purl = format!("pkg:{kind}/{namespace}{}@{}?{}", encoded(name), encoded(plain), qualifiers.join("&"));
    let version = if epoch.is_some() { version } else { plain };
    let mut component = json!({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl});
    if !by.is_empty() && by != "(none)" {
        component["supplier"] = json!({"name": by});
    }
    Some(component)
}

/// Text as a part of a package URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(packages: &str, os_release: &str) -> Value {
        let subject = Subject {
            name: "golden-12.0-x86_64-1-ebs",
            version: "12",
            timestamp: "2026-11-24T13:44:18Z",
            serial: "3e671687-395b-41f5-a30f-a58921a69b79",
        };
        document(&subject, packages, os_release)
    }

    const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";

    /// The fields that the schema of CycloneDX 1.5 requires, with what it allows in them.
    #[test]
    fn the_document_has_what_cyclonedx_requires() {
        let packages = "deb\tinstalled\tbash\t5.2.15-2+b7\tamd64\tMatthias Klose <doko@debian.org>\n\
                        deb\tconfig-files\tgone\t1\tall\tx\n\
                        deb\tinstalled\tlibstdc++6\t1:12.2.0-14~x\tamd64\t\n";
        let document = of(packages, DEBIAN);
        assert_eq!((&document["bomFormat"], &document["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        assert!(document["version"].as_u64().is_some_and(|version| version >= 1));
        let serial = document["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
        let lengths: Vec<_> = serial.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(document["metadata"]["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        let subject = &document["metadata"]["component"];
        assert_eq!(
            (&subject["type"], &subject["name"]),
            (&json!("operating-system"), &json!("golden-12.0-x86_64-1-ebs"))
        );
        let components = document["components"].as_array().unwrap();
        assert_eq!(components.len(), 2, "what is not installed is not in the image");
        let mut refs = std::collections::HashSet::new();
        for component in components {
            assert_eq!(component["type"], "library");
            assert!(component["name"].as_str().is_some_and(|name| !name.is_empty()));
            assert!(refs.insert(component["bom-ref"].as_str().unwrap()), "a reference is unique");
        }
        assert_eq!(components[0]["purl"], "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12");
        assert_eq!(components[0]["supplier"]["name"], "Matthias Klose <doko@debian.org>");
        assert_eq!(components[1]["purl"], "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14~x?arch=amd64&distro=debian-12");
        assert_eq!((&components[1]["version"], components[1].get("supplier")), (&json!("1:12.2.0-14~x"), None));
    }

    #[test]
    fn the_epoch_of_an_rpm_is_a_qualifier() {
        let packages = "rpm\tinstalled\tbash\t0:5.2-1.fc41\tx86_64\tFedora Project\n\
                        rpm\tinstalled\tdhcp\t12:4.4-1\tx86_64\t(none)\n";
        let document = of(packages, "ID=fedora\nVERSION_ID=41\n");
        let purls: Vec<_> =
            document["components"].as_array().unwrap().iter().map(|c| c["purl"].as_str().unwrap()).collect();
        assert_eq!(
            purls,
            [
                "pkg:rpm/fedora/bash@5.2-1.fc41?arch=x86_64&distro=fedora-41",
                "pkg:rpm/fedora/dhcp@4.4-1?arch=x86_64&distro=fedora-41&epoch=12"
            ]
        );
    }

    #[test]
    fn a_system_that_tells_nothing_of_itself_has_a_document_all_the_same() {
        assert_eq!(of("", "")["components"], json!([]));
        assert_eq!(of("deb\tinstalled\ta\t1\tall\tx\n", "")["components"][0]["purl"], "pkg:deb/a@1?arch=all");
    }
}
