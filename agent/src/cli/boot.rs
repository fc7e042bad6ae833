//! `kiln-agent boot`.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use kiln_schema::status::State;

use super::Stage;
use crate::boot;
use crate::system::System;

/// Arguments of `boot`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Run one stage only, as the systemd units do
    #[arg(long, value_enum)]
    stage: Option<Stage>,
}

/// Runs the stages. Exit 0 done or still running, 1 failed, 2 degraded, 5 disabled.
pub fn run(system: &System, args: &Args) -> ExitCode {
    match boot::boot(system, args.stage.map(Into::into)) {
        Ok(status) => {
            if let Some(failure) = status.first_failure().filter(|_| status.state == State::Failed) {
                tracing::error!("boot failed: {failure}");
            }
            // An earlier stage has done its part when it ends: the boot runs on.
            let code = if status.state == State::Running { 0 } else { status.state.exit_code() };
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!("the boot was given up, as its outcome cannot be recorded: {error}");
            ExitCode::from(State::Failed.exit_code())
        }
    }
}
