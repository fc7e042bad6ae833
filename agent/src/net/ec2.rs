//! The one call to the EC2 API: this instance ends itself. Signed by hand, as the EC2 SDK would be
//! half of the program.

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use kiln_schema::status::Reason;

use super::{Client, Engine, Error, Policy, Request, aws};
use crate::context::Context;
use crate::handlers::Failure;

/// The API's version, which names the form of the request.
const VERSION: &str = "2016-11-15";
/// A termination that was not accepted by now will not be.
const AT_MOST: Duration = Duration::from_secs(60);
/// A handler that used up its time may still ask for the end: the stage waits a little longer than this.
const AT_LEAST: Duration = Duration::from_secs(4);
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Terminates this very instance. The machine goes down some seconds after the call was accepted.
///
/// # Errors
/// When this is no instance of EC2, it has no role that allows the call, or nobody answers in time.
pub fn terminate_instance(context: &Context) -> Result<(), Failure> {
    let instance = &context.instance;
    let (Some(region), true) = (&instance.region, instance.id.starts_with("i-")) else {
        let message = format!("the source `{}` tells no EC2 instance and region to terminate", instance.source);
        return Err(Failure::new(Reason::Unsupported, message));
    };
    let now = Instant::now();
    let deadline = context.deadline.max(now + AT_LEAST).min(now + AT_MOST);
    let endpoint = aws::endpoint("EC2");
    let work = async {
        let policy = Policy::until(deadline);
        let credentials = aws::credentials(&policy).await?;
        let url = endpoint.clone().unwrap_or_else(|| usual_endpoint(region));
        let request = signed(&url, region, &instance.id, credentials, SystemTime::now())?;
        Client::new(&context.system).send(&request, &policy).await.map_err(explained)
    };
    Engine::new()?.run(work).map_err(|e| e.because(&format!("{} was not terminated", instance.id)))?;
    Ok(())
}

fn usual_endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://ec2.{region}.{suffix}/")
}

fn signed(url: &str, region: &str, id: &str, credentials: Credentials, at: SystemTime) -> Result<Request, Error> {
    let unsigned = |e: &dyn std::fmt::Display| Error::new(Reason::Config, format!("no request could be signed: {e}"));
    let body = format!("Action=TerminateInstances&Version={VERSION}&InstanceId.1={id}");
    let url = if url.matches('/').count() < 3 { format!("{url}/") } else { url.to_owned() };
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("ec2")
        .time(at)
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| unsigned(&e))?
        .into();
    let headers = std::iter::once(("content-type", FORM));
    let signable = SignableRequest::new("POST", url.as_str(), headers, SignableBody::Bytes(body.as_bytes()));
    let (instructions, _) = sign(signable.map_err(|e| unsigned(&e))?, &params).map_err(|e| unsigned(&e))?.into_parts();
    let request = Request::post(&url, FORM, body.clone().into_bytes())?;
    instructions.headers().try_fold(request, |request, (name, value)| request.header(name, value, true))
}

/// The API's own code and sentence, which it sends as XML.
fn explained(error: Error) -> Error {
    let between = |tag: &str| {
        let (_, rest) = error.body.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(text, _)| text.to_owned())
    };
    let (Some(code), Some(message)) = (between("Code"), between("Message")) else { return error };
    // It goes on with a kilobyte that only another call can decode.
    let message = message.split(" Encoded authorization failure").next().unwrap_or_default().trim_end_matches('.');
    Error { message: format!("{}: {code}: {message}", error.message), ..error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Server, answer};
    use std::time::Duration;

    fn send(server: &Server) -> Result<(), Error> {
        let credentials = Credentials::new("AKID", "hunter2", Some("session".to_owned()), None, "test");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let request = signed(&server.url(""), "eu-west-1", "i-1", credentials, at)?;
        let client = Client::on_link();
        let policy = Policy::until(Instant::now() + Duration::from_secs(20));
        Engine::new()?.run(client.send(&request, &policy)).map_err(explained).map(drop)
    }

    #[test]
    fn the_request_ends_this_instance_and_carries_no_secret_key() {
        let server = Server::start(|_, _| answer(200, "<TerminateInstancesResponse/>"));
        send(&server).unwrap();
        let request = &server.received()[0];
        assert_eq!(request.body, "Action=TerminateInstances&Version=2016-11-15&InstanceId.1=i-1");
        let authorization = request.header("authorization").unwrap();
        let scope = "AWS4-HMAC-SHA256 Credential=AKID/20231114/eu-west-1/ec2/aws4_request, ";
        assert!(authorization.starts_with(scope), "{authorization}");
        assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token"));
        assert_eq!(request.header("x-amz-security-token"), Some("session"));
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api() {
        let body = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to \
                    perform this operation. Encoded authorization failure message: AAAA</Message></Error></Errors></Response>";
        let server = Server::start(move |_, _| answer(403, body));
        let error = send(&server).unwrap_err();
        assert_eq!(error.reason, Reason::Refused);
        let end = "HTTP 403 Forbidden: UnauthorizedOperation: You are not authorized to perform this operation";
        assert!(error.message.ends_with(end), "{}", error.message);
    }

    #[test]
    fn only_an_instance_of_ec2_is_terminated() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        let failure = terminate_instance(&context).unwrap_err();
        assert_eq!(failure.message, "the source `test` tells no EC2 instance and region to terminate");
    }

    #[test]
    fn china_has_names_of_its_own() {
        assert_eq!(usual_endpoint("eu-west-1"), "https://ec2.eu-west-1.amazonaws.com/");
        assert_eq!(usual_endpoint("cn-north-1"), "https://ec2.cn-north-1.amazonaws.com.cn/");
    }
}
