//! The only code that speaks to a network.
//!
//! Callers are plain functions: a caller makes an [`Engine`], hands it one future and gets its result.
//! The runtime under it has one thread and lives as long as the engine.
//!
//! - `retry`: what an answer means (done, give up, try again) and how long to go on.
//! - `client`: one HTTP client; `certificates`: whom it trusts.
//! - `link`: a service on the link, by IPv4 or IPv6; `imds`: the one of EC2; `service`: those of other clouds.
//! - `aws`: credentials, and that client in the form of the AWS SDK; `route53`, `ec2`: the calls.
//!
//! Everything here ends by the deadline that its caller gives. Nothing is built before it is needed:
//! a boot that never speaks HTTPS reads no certificates, and one without Route53 loads no AWS SDK.

use std::time::{Duration, Instant};

use kiln_schema::status::Reason;

use crate::handlers::Failure;
use crate::system::System;

mod aws;
mod certificates;
mod client;
mod ec2;
pub mod imds;
mod link;
mod retry;
pub mod route53;
pub mod service;
#[cfg(test)]
pub mod testing;

pub use client::{Answer, Client, Request, hidden};
pub use ec2::terminate_instance;
pub use retry::{Backoff, Policy};

/// Why a request has no answer that is of use.
#[derive(Clone, Debug)]
pub struct Error {
    /// The stable code.
    pub reason: Reason,
    /// The request, what came of it, and how often it was tried. No query, no user name, no password.
    pub message: String,
    /// The HTTP status, where the server answered.
    pub status: Option<u16>,
    /// The beginning of the answer's body. It is the server's own text and may repeat a secret.
    pub body: String,
}

impl Error {
    /// An error that no server sent.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Error { reason, message: message.into(), status: None, body: String::new() }
    }

    /// The same, with words put before its message.
    #[must_use]
    pub fn because(self, what: &str) -> Self {
        Error { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.reason, error.message)
    }
}

/// Runs futures to their end on the calling thread.
pub struct Engine {
    /// None only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Engine {
    /// A runtime with one thread.
    ///
    /// # Errors
    /// When the kernel gives no descriptors for it.
    pub fn new() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::new(Reason::Io, format!("the network cannot be used: {e}")))?;
        Ok(Engine { runtime: Some(runtime) })
    }

    /// Runs a future. It must have a deadline of its own.
    ///
    /// # Errors
    /// Those of the future.
    pub fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => Err(Error::new(Reason::Io, "the network was shut down")),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Name resolution is a blocking call that may take minutes; nobody waits for it any more.
            runtime.shutdown_background();
        }
    }
}

/// Gets a document over HTTP or HTTPS; redirects are followed.
///
/// # Errors
/// When there is no answer of success before the deadline, or it is larger than `limit` bytes.
pub fn get(system: &System, url: &str, limit: usize, deadline: Instant) -> Result<Vec<u8>, Error> {
    let request = Request::get(url)?.limit(limit);
    let client = Client::new(system);
    let policy = Policy::until(deadline).per_try(Duration::from_secs(30)).tries(10);
    Ok(Engine::new()?.run(client.send(&request, &policy))?.body)
}

/// The body of a form, `application/x-www-form-urlencoded`.
pub fn form<'a>(fields: impl Iterator<Item = (&'a str, String)>) -> String {
    // The query of a URL has the very same form.
    let Ok(mut url) = reqwest::Url::parse("http://form") else { return String::new() };
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}
