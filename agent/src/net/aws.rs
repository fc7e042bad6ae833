//! What every call to AWS needs: credentials, an address, and for the SDK this agent's own HTTP client.
//!
//! The SDK's usual chain of credentials and its own client would be a fifth of the program. An
//! instance has its role's credentials, or those that somebody put into the environment.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use kiln_schema::status::Reason;
use serde::Deserialize;

use super::client::Fault;
use super::imds::Imds;
use super::retry::Verdict;
use super::{Client, Error, Policy, Request};
use crate::system::System;

/// Where an instance finds its role, below `/latest/`.
const ROLES: &str = "meta-data/iam/security-credentials/";
/// The metadata service hands out credentials at once, or it was just not ready.
const CREDENTIALS: Duration = Duration::from_secs(4);
/// A role may be attached to an instance that has begun to boot.
const CREDENTIALS_TRIES: u32 = 4;

/// Where a service is to be asked instead of at AWS: the environment's address for the service
/// (`AWS_ENDPOINT_URL_EC2`), else for all of them.
pub fn endpoint(service: &str) -> Option<String> {
    let own = format!("AWS_ENDPOINT_URL_{service}");
    [own.as_str(), "AWS_ENDPOINT_URL"].iter().find_map(|name| variable(name))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The environment's credentials, or those of the instance's role.
///
/// # Errors
/// When the instance has no role, or nobody answers before the deadline.
pub async fn credentials(policy: &Policy) -> Result<Credentials, Error> {
    if let Some(credentials) = given(variable) {
        return Ok(credentials);
    }
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        let message = "there are no AWS credentials: AWS_EC2_METADATA_DISABLED forbids to ask for the instance's";
        return Err(Error::new(Reason::Refused, message));
    }
    of_instance(Imds::new, policy).await
}

fn given(variable: impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    Some(Credentials::new(id, secret, variable("AWS_SESSION_TOKEN"), None, "the environment"))
}

async fn of_instance(imds: impl Fn(Instant) -> Imds, policy: &Policy) -> Result<Credentials, Error> {
    let policy = policy.tries(CREDENTIALS_TRIES);
    let attempt = || async {
        let imds = imds(policy.deadline.min(Instant::now() + CREDENTIALS));
        match of_role(&imds).await {
            Ok(credentials) => Verdict::Done(credentials),
            // Only what the service itself has refused stays refused.
            Err(cause) if cause.reason == Reason::Refused && cause.status.is_some() => Verdict::GiveUp(cause),
            Err(cause) => Verdict::Retry { cause, after: None },
        }
    };
    policy.run("AWS credentials", attempt).await
}

/// What the metadata service has for a role. Only a good one has keys.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    code: Option<String>,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
}

async fn of_role(imds: &Imds) -> Result<Credentials, Error> {
    let none = || {
        let message = "the instance has no IAM role; start it with an instance profile that allows the call";
        Error::new(Reason::Refused, message)
    };
    let roles = imds.get(ROLES).await?.ok_or_else(none)?;
    let roles = String::from_utf8_lossy(&roles);
    let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty()).ok_or_else(none)?;
    let document = imds.get(&format!("{ROLES}{role}")).await?.ok_or_else(none)?;
    // Nothing of the document goes into a message but the service's own sentence: it holds the keys.
    let useless = |why: &str| {
        Error::new(Reason::Refused, format!("the metadata service has no credentials for the role {role}: {why}"))
    };
    let document: Document = serde_json::from_slice(&document).map_err(|_| useless("its answer is not JSON"))?;
    let (Some(id), Some(secret)) = (document.access_key_id, document.secret_access_key) else {
        let code = document.code.unwrap_or_else(|| "an answer without keys".to_owned());
        return Err(useless(&document.message.map_or(code.clone(), |message| format!("{code}: {message}"))));
    };
    // Until when they hold is for the service called to say: the clock here may be wrong.
    Ok(Credentials::new(id, secret, document.token, None, "the instance's role"))
}

/// The agent's HTTP client, in the form that the SDK wants.
#[derive(Clone)]
pub struct Wire(Arc<Client>);

impl Wire {
    /// With the certificates of the image, unless only plain HTTP will be spoken.
    ///
    /// # Errors
    /// When HTTPS would have nobody to trust.
    pub fn new(system: &System, secure: bool) -> Result<Self, Error> {
        let client = Client::new(system);
        client.prepare(secure)?;
        Ok(Wire(Arc::new(client)))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = outward(&request).map_err(|e| ConnectorError::user(e.message.into()))?;
            let answer = client.exchange(&request).await.map_err(|fault| match fault {
                Fault::Connection(error) => ConnectorError::io(error.into()),
                Fault::TooLarge => ConnectorError::other("the answer is too large".into(), None),
                Fault::Unusable(error) => ConnectorError::user(error.message.into()),
            })?;
            let status = answer.status.try_into().map_err(|e| ConnectorError::other(Box::new(e), None))?;
            let mut response = HttpResponse::new(status, answer.body.into());
            for (name, value) in &answer.headers {
                // A header that is no text is none of AWS's.
                let Ok(value) = value.to_str() else { continue };
                response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
            }
            Ok(response)
        })
    }
}

fn outward(request: &HttpRequest) -> Result<Request, Error> {
    let body = request.body().bytes().unwrap_or_default().to_vec();
    let plain = Request::made(request.method(), request.uri(), body)?;
    request.headers().iter().try_fold(plain, |plain, (name, value)| plain.header(name, value, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Reply, Server, answer};
    use crate::net::{Backoff, Engine};

    fn ask(server: &Server) -> Result<Credentials, Error> {
        let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };
        let policy = Policy::until(Instant::now() + Duration::from_secs(30)).backoff(backoff);
        Engine::new()?.run(of_instance(|deadline| Imds::at(&server.url(""), deadline), &policy))
    }

    /// A metadata service with these answers to the list of roles and to the role `web`.
    fn service(
        roles: impl Fn(usize) -> Reply + Send + Sync + 'static,
        role: impl Fn() -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::start(move |request, before| match (request.method.as_str(), request.target.as_str()) {
            ("PUT", "/latest/api/token") => answer(200, "token"),
            ("GET", "/latest/meta-data/iam/security-credentials/") => roles(before),
            ("GET", "/latest/meta-data/iam/security-credentials/web") => role(),
            _ => answer(400, ""),
        })
    }

    fn good() -> Reply {
        let document = r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA1", "SecretAccessKey": "hunter2",
                           "Token": "session", "Expiration": "2020-01-01T00:00:00Z"}"#;
        answer(200, document)
    }

    #[test]
    fn credentials_of_the_environment_are_whole_or_none() {
        let variables = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let whole = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
        let found = given(variables(Box::leak(Box::new(whole)))).unwrap();
        assert_eq!((found.access_key_id(), found.secret_access_key(), found.session_token()), ("AKID", "s", Some("t")));
        assert!(given(variables(&[("AWS_ACCESS_KEY_ID", "AKID")])).is_none());
        assert!(given(variables(&[("AWS_SECRET_ACCESS_KEY", "s")])).is_none());
    }

    #[test]
    fn the_role_gives_its_credentials_even_when_the_clock_calls_them_old() {
        let server = service(|_| answer(200, "web\n"), good);
        let found = ask(&server).unwrap();
        let keys = (found.access_key_id(), found.secret_access_key(), found.session_token());
        assert_eq!(keys, ("ASIA1", "hunter2", Some("session")));
        assert_eq!(found.expiry(), None);
        assert_eq!(server.received().len(), 3, "one token serves both");
    }

    #[test]
    fn a_role_that_comes_late_is_waited_for_and_a_missing_one_is_not_for_long() {
        let server = service(|before| if before < 3 { answer(404, "") } else { answer(200, "web") }, good);
        assert_eq!(ask(&server).unwrap().access_key_id(), "ASIA1");
        let server = service(|_| answer(404, ""), good);
        let error = ask(&server).unwrap_err();
        assert_eq!(error.reason, Reason::Refused);
        assert!(
            error.message.starts_with("AWS credentials: the instance has no IAM role; start it"),
            "{}",
            error.message
        );
        assert!(error.message.contains("(4 tries in "), "{}", error.message);
    }

    #[test]
    fn a_role_without_keys_is_told_in_the_words_of_the_service() {
        let failed = r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role web"}"#;
        for (body, told) in [
            (failed, "the role web: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role web"),
            ("{}", "the role web: an answer without keys"),
            (r#"{"SecretAccessKey": "hunter2""#, "the role web: its answer is not JSON"),
        ] {
            let error = ask(&service(|_| answer(200, "web"), move || answer(200, body))).unwrap_err();
            assert!(error.message.contains(told), "{}", error.message);
            assert!(!error.message.contains("hunter2"), "{}", error.message);
        }
    }

    #[test]
    fn a_metadata_service_that_is_switched_off_is_asked_once() {
        let server = Server::start(|_, _| answer(403, ""));
        let error = ask(&server).unwrap_err();
        assert!(error.message.contains("HttpEndpoint: disabled"), "{}", error.message);
        assert_eq!(server.received().len(), 1);
    }

    #[test]
    fn https_to_aws_without_certificates_is_told_before_anybody_is_asked() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert_eq!(Wire::new(&system, true).unwrap_err().reason, Reason::NoCertificates);
        Wire::new(&system, false).unwrap();
    }
}
