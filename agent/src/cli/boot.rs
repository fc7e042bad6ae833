//! `kiln-agent boot`.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args as ClapArgs;
use kiln_schema::status::State;

use super::Stage;
use crate::boot;
use crate::system::{System, own_cost};

/// Arguments of `boot`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Run one stage only, as the systemd units do
    #[arg(long, value_enum)]
    stage: Option<Stage>,
}

/// Runs the stages. Exit 0 done or still running, 1 failed, 2 degraded, 5 disabled.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let begun = Instant::now();
    // Where commands run that are given no folder: as under systemd, whoever starts the agent by hand.
    if system.is_live() {
        let _ = std::env::set_current_dir("/");
    }
    let booted = boot::boot(system, args.stage.map(Into::into));
    if let Some(cost) = own_cost() {
        let (wall, cpu) = (begun.elapsed().as_secs_f64() * 1e3, cost.cpu.as_secs_f64() * 1e3);
        tracing::info!("took {wall:.1} ms, {cpu:.1} ms of it CPU of the agent itself, {} KiB at most", cost.peak_kib);
    }
    match booted {
        Ok(status) => {
            if let Some(failure) = status.first_failure().filter(|_| status.state == State::Failed) {
                tracing::error!("boot failed: {failure}");
            }
            // An earlier stage has done its part when it ends: the boot runs on.
            let code = if status.state == State::Running { 0 } else { status.state.exit_code() };
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!("the boot was given up: {error}");
            ExitCode::from(State::Failed.exit_code())
        }
    }
}
