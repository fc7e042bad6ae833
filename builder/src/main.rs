//! The `kiln` program: parses the command line and maps errors to exit codes.

use std::process::ExitCode;

use clap::Parser;
use kiln::cli;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::USAGE } else { 0 });
        }
    };
    cli::run(cli)
}
