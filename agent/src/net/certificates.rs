//! Whom HTTPS trusts: the certificates of the image, so that an authority that an organisation adds
//! or removes there counts here too.

use std::env;

use kiln_schema::status::Reason;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Error;
use crate::system::System;

/// Where distributions keep the certificates of all authorities in one file: Debian, Red Hat, SUSE, Alpine.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A bundle has some 200 kB.
const LIMIT: u64 = 16 * 1024 * 1024;

/// The certificates of the image. One that cannot be read is left out, as by every other program.
///
/// # Errors
/// When there are none, with the places that were looked at and the package that brings them, or when
/// not one of them can be read.
pub fn trusted(system: &System) -> Result<RootCertStore, Error> {
    let bad = |why: &str| {
        let message = format!("the certificates of the image cannot be used: {why}; reinstall ca-certificates");
        Error::new(Reason::NoCertificates, message)
    };
    let text = bundle(system)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    let mut trusted = RootCertStore::empty();
    match (trusted.add_parsable_certificates(certificates), trusted.is_empty()) {
        (_, false) => Ok(trusted),
        ((_, 0), true) => Err(bad("the file holds none")),
        ((_, unread), true) => Err(bad(&format!("none of {unread} is one of an authority"))),
    }
}

fn bundle(system: &System) -> Result<Vec<u8>, Error> {
    let own = env::var("SSL_CERT_FILE").ok().filter(|path| system.is_live() && !path.is_empty());
    let places: Vec<&str> = own.as_deref().into_iter().chain(BUNDLES.iter().copied()).collect();
    let text = places.iter().find_map(|place| system.read_limited(place, LIMIT).ok().filter(|text| !text.is_empty()));
    text.ok_or_else(|| {
        let message = format!(
            "HTTPS needs the certificates of authorities, and none of {} is there; install the package ca-certificates",
            places.join(", ")
        );
        Error::new(Reason::NoCertificates, message)
    })
}

/// A certificate whose key nobody has.
#[cfg(test)]
pub const ONE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBcjCCARegAwIBAgIUWpbPBiW83/txvUcKbIowjLo2YcwwCgYIKoZIzj0EAwIw\n\
DjEMMAoGA1UEAwwDb25lMB4XDTI2MTEyNDE0NDYzNFoXDTM2MTEyMTE0NDYzNFow\n\
DjEMMAoGA1UEAwwDb25lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7uZfaRZa\n\
glhhbcxhhI1BODQVTQ9byDpGYAWYrqZc9bGO/HBpct4LcMBcjMr5fIf+L50LQDgA\n\
vsC931+JZQ+VJ6NTMFEwHQYDVR0OBBYEFJZiohG7F3ByXJX+ILEADmXaa7KIMB8G\n\
A1UdIwQYMBaAFJZiohG7F3ByXJX+ILEADmXaa7KIMA8GA1UdEwEB/wQFMAMBAf8w\n\
CgYIKoZIzj0EAwIDSQAwRgIhANfQpdbkPTCo49hZZkJmukpB77c6RIlrLkBuj61a\n\
Ts84AiEA61CwbKOE6DPQmXdQ1FNh0t85kSXeHK3UDOggkshK+Q4=\n\
-----END CERTIFICATE-----\n\
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    #[test]
    fn an_image_without_certificates_is_told_which_package_lacks() {
        let tree = tempfile::tempdir().unwrap();
        let error = bundle(&System::new(tree.path())).unwrap_err();
        assert_eq!(error.reason, Reason::NoCertificates);
        assert!(error.message.contains("/etc/ssl/certs/ca-certificates.crt"), "{}", error.message);
        assert!(error.message.contains("install the package ca-certificates"), "{}", error.message);
    }

    #[test]
    fn a_bundle_without_a_certificate_is_no_bundle() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(BUNDLES[1], "# all removed\n", FileOptions::default()).unwrap();
        let error = trusted(&system).unwrap_err();
        assert_eq!(error.reason, Reason::NoCertificates);
        assert!(error.message.contains("holds none"), "{}", error.message);
    }
    #[test]
    fn a_certificate_that_cannot_be_read_does_not_take_the_others_with_it() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        system.write(BUNDLES[0], format!("{broken}# mine\n{ONE}{broken}"), FileOptions::default()).unwrap();
        assert_eq!(trusted(&system).unwrap().len(), 1);
        system.write(BUNDLES[0], format!("{broken}{broken}"), FileOptions::default()).unwrap();
        let error = trusted(&system).unwrap_err();
        assert_eq!(error.reason, Reason::NoCertificates);
        assert!(error.message.contains("none of 2 is one of an authority"), "{}", error.message);
    }
}
