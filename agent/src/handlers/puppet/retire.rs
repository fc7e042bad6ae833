//! Taking a machine out of service on which puppet failed. The status tells before it happens.

use jiff::{SignedDuration, Timestamp};
use kiln_schema::status::PlannedShutdown;

use super::config::{OnError, Settings};
use crate::context::Context;
use crate::handlers::Failure;
use crate::system::{Command, now};

/// Minutes to the shutdown, where the user-data sets none.
const TIMER: u32 = 5;
/// The command that cancels a shutdown.
const CANCEL: &str = "shutdown -c";
/// Setting up a shutdown is one message to systemd. Not bounded by the handler's time: it may be used up.
const SHUTDOWN_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Does what the settings say after a failure, and gives the failure with what was done.
///
/// In a bake nothing is done, so that the failure can be read; a tree in a folder cannot be shut down.
pub fn after(settings: &Settings, context: &Context, failure: Failure) -> Failure {
    if context.is_baking() || !context.system.is_live() {
        return failure;
    }
    match settings.on_error() {
        OnError::None => failure,
        OnError::Shutdown => shut_down(settings, context, failure),
        OnError::Terminate => {
            let plan = plan("terminate", now(), 0, &failure, "none: EC2 does not take a termination back");
            match context.plan_shutdown(plan).map_err(Failure::from).and_then(|()| terminate(context)) {
                Ok(()) => with_note(failure, "the instance is being terminated"),
                Err(refused) => {
                    let note = format!("it could not be terminated: {}", refused.message);
                    shut_down(settings, context, with_note(failure, &note))
                }
            }
        }
    }
}

/// Has EC2 terminate this instance.
fn terminate(context: &Context) -> Result<(), Failure> {
    crate::net::terminate_instance(context)
}

fn shut_down(settings: &Settings, context: &Context, failure: Failure) -> Failure {
    let minutes = settings.shutdown_timer.unwrap_or(TIMER);
    let planned = context.plan_shutdown(plan("poweroff", now(), minutes, &failure, CANCEL));
    let command = command(minutes);
    let outcome = planned.map_err(|error| error.to_string()).and_then(|()| match context.run(&command) {
        Ok(finished) if finished.success() => Ok(()),
        Ok(finished) => Err(format!("shutdown {}: {}", finished.ending(), finished.last_lines(1).join(""))),
        Err(error) => Err(error.to_string()),
    });
    match outcome {
        Ok(()) => with_note(failure, &format!("the machine shuts down in {minutes} min, `{CANCEL}` cancels it")),
        Err(error) => {
            // The status must not promise what will not happen.
            let _ = context.withdraw_shutdown();
            with_note(failure, &format!("the shutdown could not be set up: {error}"))
        }
    }
}

fn command(minutes: u32) -> Command {
    let wall = format!("puppet failed; cancel this shutdown with `{CANCEL}`, see `kiln-agent status` for the cause");
    Command::new("shutdown", SHUTDOWN_TIME).args(["-P".to_owned(), format!("+{minutes}"), wall])
}

fn plan(action: &str, now: Timestamp, minutes: u32, failure: &Failure, cancel: &str) -> PlannedShutdown {
    let at = now.checked_add(SignedDuration::from_secs(i64::from(minutes) * 60)).unwrap_or(now);
    PlannedShutdown {
        action: action.to_owned(),
        at: at.to_string(),
        because: format!("puppet: {}", failure.message),
        cancel: cancel.to_owned(),
    }
}

fn with_note(failure: Failure, note: &str) -> Failure {
    Failure { message: format!("{}; {note}", failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::status::Reason;

    #[test]
    fn a_plan_tells_when_why_and_how_to_cancel() {
        let failure = Failure::new(Reason::CommandFailed, "2 of 9 resources failed");
        let plan = plan("poweroff", "2026-01-01T00:00:00Z".parse().unwrap(), 5, &failure, CANCEL);
        assert_eq!(plan.at, "2026-01-01T00:05:00Z");
        assert_eq!(plan.because, "puppet: 2 of 9 resources failed");
        assert_eq!(plan.cancel, "shutdown -c");
    }

    #[test]
    fn a_tree_and_a_bake_are_never_shut_down() {
        let tree = tempfile::tempdir().unwrap();
        for user_data in ["puppet: {}", "{puppet: {on_error: terminate}, kiln: {baking: true}}"] {
            let context = Context::for_test(tree.path(), user_data);
            let failure = Failure::new(Reason::MissingProgram, "puppet is not installed");
            assert_eq!(after(&Settings::default(), &context, failure.clone()), failure);
            assert_eq!(context.status_so_far().planned_shutdown, None);
        }
    }
}
