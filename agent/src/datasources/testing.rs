//! A metadata service for the tests of sources, good and bad.

use std::time::{Duration, Instant};

use super::{Datasource, Detected, Instance, SourceError};
use crate::net::service::{Api, Service};
use crate::net::testing::{Received, Reply, Server, answer, closed_port};
use crate::system::{FileOptions, System};

/// Targets and what is there.
pub type Values = &'static [(&'static str, &'static str)];

/// A service with these values, for whoever sends its headers.
pub fn server(api: &'static Api, values: Values) -> Server {
    Server::start(move |request, _| good(api, values, request))
}

fn good(api: &Api, values: Values, request: &Received) -> Reply {
    for (name, value) in api.headers {
        if request.header(&name.to_lowercase()) != Some(value) {
            return answer(403, "");
        }
    }
    match values.iter().find(|(target, _)| *target == request.target) {
        Some((_, value)) => answer(200, *value),
        None => answer(404, ""),
    }
}

/// The service of a server.
pub fn service(api: &'static Api, server: &Server) -> Service {
    Service::for_test(api, &server.url(""), Instant::now() + Duration::from_secs(30))
}

/// Every fault that passes is survived and every other one told, within one deadline.
pub fn faults(api: &'static Api, values: Values, read: fn(&Service) -> Result<Instance, SourceError>) {
    let expected = read(&service(api, &server(api, values))).unwrap();
    let shaky = Server::start(move |request, before| match before {
        0 => Reply::Answer(503, vec!["retry-after: 0".to_owned()], Vec::new()),
        1 => answer(429, ""),
        2 => Reply::Reset,
        3 => Reply::Silence,
        4 => Reply::Stall("{\"half\""),
        _ => good(api, values, request),
    });
    let mut survived = read(&service(api, &shaky)).unwrap();
    // Its name has the server's address.
    if let (Some(network), Some(expected)) = (&mut survived.network, &expected.network) {
        network.name.clone_from(&expected.name);
    }
    assert_eq!(survived, expected);
    for status in [401, 403] {
        let refuses = Server::start(move |_, _| answer(status, "hunter2"));
        let error = read(&service(api, &refuses)).unwrap_err().message;
        assert!(error.contains(&format!("HTTP {status}")) && !error.contains("hunter2"), "{error}");
        assert_eq!(refuses.received().len(), 1, "a refusal is believed: {error}");
    }
    let silent = Server::start(|_, _| Reply::Silence);
    let busy = Server::start(|_, _| Reply::Answer(429, vec!["retry-after: 3600".to_owned()], Vec::new()));
    let closed = format!("http://{}", closed_port());
    for (base, says) in [
        (silent.url(""), "does not answer"),
        (closed, "cannot be reached"),
        (busy.url(""), "the server asks to wait 3600 s"),
    ] {
        let began = Instant::now();
        let error = read(&Service::for_test(api, &base, began + Duration::from_secs(1))).unwrap_err().message;
        assert!(error.contains(says), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

/// Each value of the firmware alone, and what a source makes of it; of nothing it makes nothing.
pub fn detects(source: &dyn Datasource, cases: &[(&str, &str, Detected)]) {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(source.detect(&System::new(empty.path())), Detected::No);
    for (name, value, expected) in cases {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write(format!("/sys/class/dmi/id/{name}"), value, FileOptions::default()).unwrap();
        assert_eq!(source.detect(&system), *expected, "{name}: {value}");
    }
}
