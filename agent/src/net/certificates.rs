//! Whom HTTPS trusts: the certificates of the image, so that an authority that an organisation adds
//! or removes there counts here too.

use std::env;

use kiln_schema::status::Reason;
use reqwest::Certificate;

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

/// The certificates of the image, as PEM.
///
/// # Errors
/// When there are none, with the places that were looked at and the package that brings them.
pub fn bundle(system: &System) -> Result<Vec<u8>, Error> {
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

/// The certificates of the image, read.
///
/// # Errors
/// As [`bundle`], and when not one of them can be read.
pub fn trusted(system: &System) -> Result<Vec<Certificate>, Error> {
    let bad = |why: String| {
        let message = format!("the certificates of the image cannot be used: {why}; reinstall ca-certificates");
        Error::new(Reason::NoCertificates, message)
    };
    let certificates = Certificate::from_pem_bundle(&bundle(system)?).map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() { Err(bad("the file holds none".to_owned())) } else { Ok(certificates) }
}

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
}
