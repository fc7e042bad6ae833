//! The `kiln-agent` program: parses the command line and maps errors to exit codes.

use std::process::ExitCode;

use kiln_agent::cli;

fn main() -> ExitCode {
    if let Some(code) = cli::cloud_init::answer(std::env::args_os().next().as_deref()) {
        return code;
    }
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::USAGE } else { 0 });
        }
    };
    kiln_agent::log::init();
    cli::run(cli)
}
