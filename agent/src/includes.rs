//! Documents that user-data includes: got over the network or from a file, and kept.
//!
//! A document is got once a boot, so that all stages see the same; one of `#include-once` is got once in the
//! life of the instance. One that could not be had is not asked for again in the same boot.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kiln_schema::paths;
use serde::{Deserialize, Serialize};

use crate::net;
use crate::report::instance_folder;
use crate::system::{FileOptions, System};
use crate::userdata::Fetch;

/// All documents together are got by then: what holds up the boot longer is no user-data.
const BUDGET: Duration = Duration::from_secs(120);
/// One document is got by then.
const ONE: Duration = Duration::from_secs(40);
/// Most bytes of a document.
const LIMIT: usize = 16 * 1024 * 1024;

/// What came of the addresses that were asked.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Kept {
    /// Documents in base64, by address.
    documents: BTreeMap<String, String>,
    /// Why there is none, by address.
    failures: BTreeMap<String, String>,
}

/// Gets included documents and keeps them.
pub struct Includes {
    system: System,
    /// What is kept for this boot, and for this instance.
    boot: RefCell<Kept>,
    instance: RefCell<Kept>,
    instance_path: String,
    /// None where nobody is to be asked.
    deadline: Option<Instant>,
}

impl Includes {
    /// For a boot that must go on by the deadline.
    pub fn new(system: &System, instance: &str, deadline: Instant) -> Self {
        Includes { deadline: Some(deadline.min(Instant::now() + BUDGET)), ..Self::kept(system, instance) }
    }

    /// What was got before, and nothing else.
    pub fn kept(system: &System, instance: &str) -> Self {
        let instance_path = instance_folder(instance) + "/includes.json";
        let read = |path: &str| {
            // Nearly always there is no such file: no bytes are no JSON, and to say where costs more than to ask.
            let kept = system.read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            RefCell::new(kept.unwrap_or_default())
        };
        Includes {
            system: system.clone(),
            boot: read(paths::INCLUDES),
            instance: read(&instance_path),
            instance_path,
            deadline: None,
        }
    }

    fn get(&self, url: &str, limit: usize) -> Result<Vec<u8>, String> {
        let path = url.strip_prefix("file://").unwrap_or(url);
        if path.starts_with('/') {
            return self.system.read_limited(path, limit as u64).map_err(|error| error.to_string());
        }
        let Some(deadline) = self.deadline else {
            return Err(format!("{} was not got at this boot", net::hidden(url)));
        };
        net::get(&self.system, url, limit, deadline.min(Instant::now() + ONE)).map_err(|error| error.message)
    }

    /// Addresses and documents may hold secrets.
    fn keep(&self, path: &str, kept: &Kept) {
        let bytes = serde_json::to_vec(kept).unwrap_or_default();
        if let Err(error) = self.system.write(path, bytes, FileOptions::mode(0o600)) {
            tracing::warn!("included documents are not kept and will be got again: {error}");
        }
    }
}

impl Fetch for Includes {
    fn fetch(&self, url: &str, once: bool, limit: usize) -> Result<Vec<u8>, String> {
        let decoded = |kept: &Kept| kept.documents.get(url).and_then(|text| decode(text));
        if let Some(document) = decoded(&self.instance.borrow()).filter(|_| once) {
            return Ok(document);
        }
        let at_this_boot = decoded(&self.boot.borrow());
        let document = match at_this_boot {
            Some(document) => document,
            None => {
                let failure = self.boot.borrow().failures.get(url).cloned();
                if let Some(why) = failure {
                    return Err(why);
                }
                let got = self.get(url, limit.min(LIMIT));
                if self.deadline.is_some() {
                    let mut boot = self.boot.borrow_mut();
                    match &got {
                        Ok(document) => drop(boot.documents.insert(url.to_owned(), encode(document))),
                        Err(why) => drop(boot.failures.insert(url.to_owned(), why.clone())),
                    }
                    self.keep(paths::INCLUDES, &boot);
                }
                got?
            }
        };
        if once && self.deadline.is_some() {
            let mut instance = self.instance.borrow_mut();
            instance.documents.insert(url.to_owned(), encode(&document));
            self.keep(&self.instance_path, &instance);
        }
        Ok(document)
    }
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::Config;
    use crate::datasources::Instance;
    use crate::net::testing::{Reply, Server, answer, closed_port};

    fn includes(system: &System) -> Includes {
        Includes::new(system, "i-1", Instant::now() + Duration::from_secs(20))
    }

    fn boot(system: &System, user_data: &str) -> Config {
        let instance = Instance { user_data: user_data.into(), ..Instance::new("test", "i-1") };
        Config::load(system, &instance, Some(&includes(system)))
    }

    #[test]
    fn a_document_is_got_once_a_boot_and_one_of_once_no_more() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let server = Server::start(|request, before| match request.target.as_str() {
            "/moved" => Reply::Answer(302, vec!["location: /a?token=1".into()], Vec::new()),
            target => answer(200, format!("#cloud-config\nhostname: h{before}\nrole: {}\n", &target[1..2])),
        });
        let text = format!("#include\n{}\n#include-once\n{}\n", server.url("/moved"), server.url("/b"));
        let hostname = |config: &Config| config.root.get("hostname").map(|node| node.to_json().to_string());
        let first = boot(&system, &text);
        assert_eq!(first.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(hostname(&first).as_deref(), Some("\"h2\""));
        // A later stage.
        assert_eq!(hostname(&boot(&system, &text)).as_deref(), Some("\"h2\""));
        assert_eq!(server.received().len(), 3);
        // The next boot asks for what is not of once.
        system.remove(paths::RUN).unwrap();
        assert_eq!(hostname(&boot(&system, &text)).as_deref(), Some("\"h2\""));
        let asked: Vec<String> = server.received().into_iter().map(|request| request.target).collect();
        assert_eq!(asked, ["/moved", "/a?token=1", "/b", "/moved", "/a?token=1"]);
        for path in [paths::INCLUDES, "/var/lib/kiln/instances/i-1/includes.json"] {
            assert_eq!(system.metadata(path).unwrap().mode() & 0o7777, 0o600, "{path}");
        }
    }

    #[test]
    fn one_that_cannot_be_had_is_told_at_every_stage_and_asked_for_once() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let server = Server::start(|request, _| match request.target.split('?').next() {
            Some("/good") => answer(200, "#cloud-config\nrole: web\n"),
            Some("/loop") => Reply::Answer(302, vec!["location: /loop".into()], Vec::new()),
            _ => answer(403, "hunter2"),
        });
        let bad = server.url("/bad?token=hunter2").replace("http://", "http://me:hunter2@");
        let text = format!("#include\n{bad}\n{}\nfile:///no/such/file\n{}\n", server.url("/loop"), server.url("/good"));
        for _ in 0..2 {
            let config = boot(&system, &text);
            assert_eq!(config.agent.role.as_deref(), Some("web"));
            let told: Vec<String> = config.diagnostics.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 3, "{told:?}");
            assert!(told[0].starts_with("user-data:2: error: an included document is missing: GET http://127.0.0.1:"));
            assert!(told[0].contains("/bad?…") && told[1].contains("redirects") && told[2].contains("/no/such/file"));
            assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
        }
        assert_eq!(server.received().iter().filter(|request| request.target.starts_with("/bad")).count(), 1);
    }

    #[test]
    fn a_server_that_is_not_there_or_says_nothing_ends_at_the_deadline() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let silent = Server::start(|_, _| Reply::Silence);
        let began = Instant::now();
        let includes = Includes::new(&system, "i-1", began + Duration::from_secs(2));
        assert!(includes.fetch(&format!("http://{}/", closed_port()), false, 100).is_err());
        assert!(includes.fetch(&silent.url("/"), false, 100).is_err());
        assert!(began.elapsed() < Duration::from_secs(10));
        let large = Server::start(|_, _| answer(200, "x".repeat(101)));
        let told = self::includes(&system).fetch(&large.url("/"), true, 100).unwrap_err();
        assert!(told.contains("larger than 100 bytes"), "{told}");
    }

    #[test]
    fn a_file_is_read_from_the_machine_and_nobody_is_asked_for_a_plan() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/etc/more", "#!/bin/sh\n", FileOptions::default()).unwrap();
        for address in ["file:///etc/more", "/etc/more"] {
            system.remove(paths::RUN).unwrap();
            assert_eq!(boot(&system, &format!("#include {address}\n")).scripts.len(), 1);
        }
        let server = Server::start(|_, _| answer(200, "x"));
        let told = Includes::kept(&system, "i-1").fetch(&server.url("/x?secret"), true, 100).unwrap_err();
        assert!(told.ends_with("/x?… was not got at this boot") && server.received().is_empty(), "{told}");
    }
}
