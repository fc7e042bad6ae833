//! What Azure waits for: the word that a machine is set up, or why it is not.

use std::time::Instant;

use super::xml::{self, escape};
use crate::net::service::{Api, Service};
use crate::net::{self};

const API: Api = Api {
    bases: &["http://168.63.129.16"],
    headers: &[("x-ms-agent-name", "WALinuxAgent"), ("x-ms-version", "2012-11-30")],
    passing: &[],
};
const GOAL: &str = "machine/?comp=goalstate";
const HEALTH: &str = "machine?comp=health";
/// Most characters of a description that Azure takes.
const MOST: usize = 512;

/// Tells Azure that the machine is ready, or why it is not.
///
/// # Errors
/// When Azure cannot be told before the deadline.
pub fn report(failure: Option<&str>, deadline: Instant) -> Result<(), net::Error> {
    tell(&Service::new(&API, deadline)?, failure)
}

fn tell(service: &Service, failure: Option<&str>) -> Result<(), net::Error> {
    let unusable = |why: &str| {
        let message = format!("GET {}/{GOAL}: the goal state cannot be used: {why}", service.base());
        net::Error::new(kiln_schema::status::Reason::Network, message)
    };
    let goal = service.get(GOAL)?.ok_or_else(|| unusable("there is none"))?;
    let goal = xml::parse(&String::from_utf8_lossy(&goal)).map_err(|why| unusable(&why))?;
    let named = |name: &str| goal.text(name).ok_or_else(|| unusable(&format!("it has no {name}")));
    let state = match failure {
        None => "<State>Ready</State>".to_owned(),
        Some(why) => {
            let why: String = why.chars().take(MOST).collect();
            format!(
                "<State>NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus>\
                 <Description>{}</Description></Details>",
                escape(&why)
            )
        }
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"><GoalStateIncarnation>{}</GoalStateIncarnation><Container>\
         <ContainerId>{}</ContainerId><RoleInstanceList><Role><InstanceId>{}</InstanceId><Health>{state}</Health>\
         </Role></RoleInstanceList></Container></Health>",
        escape(named("Incarnation")?),
        escape(named("ContainerId")?),
        escape(named("InstanceId")?),
    );
    service.post(HEALTH, "text/xml; charset=utf-8", body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasources::testing;
    use crate::net::testing::{Reply, Server, answer};

    const GOAL_STATE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><Version>2012-11-30</Version><Incarnation>3</Incarnation>
<Machine><ExpectedState>Started</ExpectedState></Machine><Container><ContainerId>c-1</ContainerId><RoleInstanceList>
<RoleInstance><InstanceId>i&amp;1</InstanceId><State>Started</State></RoleInstance></RoleInstanceList></Container></GoalState>"#;

    fn wireserver(health: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(move |request, before| {
            assert_eq!(request.header("x-ms-version"), Some("2012-11-30"));
            match (request.method.as_str(), request.target.as_str()) {
                ("GET", "/machine/?comp=goalstate") => answer(200, GOAL_STATE),
                ("POST", "/machine?comp=health") => health(before),
                _ => answer(400, ""),
            }
        })
    }

    #[test]
    fn azure_is_told_that_the_machine_is_ready() {
        let server = wireserver(|before| if before < 2 { answer(503, "") } else { answer(200, "") });
        tell(&testing::service(&API, &server), None).unwrap();
        let received = server.received();
        assert_eq!(received.len(), 3, "a refusal that passes is tried again");
        let told = xml::parse(&received[2].body).unwrap();
        let texts = ["GoalStateIncarnation", "ContainerId", "InstanceId", "State"].map(|name| told.text(name));
        assert_eq!(texts, [Some("3"), Some("c-1"), Some("i&1"), Some("Ready")]);
        assert_eq!(received[2].header("content-type"), Some("text/xml; charset=utf-8"));
    }

    #[test]
    fn azure_is_told_why_the_machine_is_not_ready() {
        let server = wireserver(|_| answer(200, ""));
        let why = format!("a < b & {}", "ö".repeat(1000));
        tell(&testing::service(&API, &server), Some(&why)).unwrap();
        let told = xml::parse(&server.received()[1].body).unwrap();
        assert_eq!((told.text("State"), told.text("SubStatus")), (Some("NotReady"), Some("ProvisioningFailed")));
        let description = told.text("Description").unwrap();
        assert!(description.starts_with("a < b & ö") && description.chars().count() == 512);
    }

    #[test]
    fn a_goal_state_that_cannot_be_used_is_told() {
        for (reply, why) in
            [("<GoalState/>", "it has no Incarnation"), ("<GoalState>", "line 1: the document is cut off")]
        {
            let server = Server::start(move |_, _| answer(200, reply));
            let error = tell(&testing::service(&API, &server), None).unwrap_err().message;
            assert!(error.ends_with(&format!("the goal state cannot be used: {why}")), "{error}");
        }
        let error = tell(&testing::service(&API, &wireserver(|_| answer(400, ""))), None).unwrap_err().message;
        assert!(error.starts_with("POST http://127.0.0.1") && error.contains("HTTP 400"), "{error}");
    }
}
