//! What a handler gets beside its configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{PlannedShutdown, Status};
use kiln_schema::yaml::Node;

use crate::cloud_init;
use crate::datasources::Instance;
use crate::report::{LastAct, Report};
use crate::system::{Command, Finished, RunError, System};
use crate::userdata::Script;

/// The surroundings of one run of one handler.
#[derive(Clone)]
pub struct Context {
    /// The machine.
    pub system: System,
    /// What the datasource told.
    pub instance: Arc<Instance>,
    /// The whole merged configuration, for handlers that look beyond their own keys.
    pub config: Arc<Node>,
    /// Scripts of the user-data, in order.
    pub scripts: Arc<[Script]>,
    /// When the run must have ended.
    pub deadline: Instant,
    report: Report,
}

impl Context {
    /// Surroundings with a deadline that the runner moves before every handler.
    pub fn new(
        system: System,
        instance: Arc<Instance>,
        config: Arc<Node>,
        scripts: Arc<[Script]>,
        report: Report,
    ) -> Self {
        Context { system, instance, config, scripts, deadline: Instant::now() + Duration::from_secs(300), report }
    }

    /// What is left until the deadline.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// A command that ends by the handler's deadline at the latest.
    pub fn command(&self, program: &str) -> Command {
        Command::new(program, self.time_left())
    }

    /// A command whose output people look for: in cloud-init's place it also goes to the log of it.
    pub fn shown(&self, command: Command) -> Command {
        match cloud_init::is_installed(&self.system) {
            true => command.copied_to(cloud_init::logs::OUTPUT, cloud_init::logs::MODE),
            false => command,
        }
    }

    /// Runs a command on the machine.
    ///
    /// # Errors
    /// When it has no result; an exit code other than 0 is a result.
    pub fn run(&self, command: &Command) -> Result<Finished, RunError> {
        self.system.run(command)
    }

    /// The status as it stands: all handlers before this one.
    pub fn status_so_far(&self) -> Status {
        self.report.snapshot()
    }

    /// Puts findings about a document into the status, with their places.
    ///
    /// # Errors
    /// When the status cannot be written.
    pub fn tell(&self, findings: Vec<Diagnostic>) -> std::io::Result<()> {
        self.report.diagnostics(findings)
    }

    /// Says in the status that the machine is going down, before it does.
    ///
    /// # Errors
    /// When the status cannot be written.
    pub fn plan_shutdown(&self, plan: PlannedShutdown) -> std::io::Result<()> {
        self.report.update(|status| status.planned_shutdown = Some(plan))
    }

    /// Takes a planned shutdown out of the status, as it will not happen.
    ///
    /// # Errors
    /// When the status cannot be written.
    pub fn withdraw_shutdown(&self) -> std::io::Result<()> {
        self.report.update(|status| status.planned_shutdown = None)
    }

    /// Has the agent do this when the status is written and the boot has ended.
    pub fn do_last(&self, act: LastAct) {
        self.report.do_last(act);
    }

    /// Whether an image is being baked: handlers that act on the outside world keep still.
    pub fn is_baking(&self) -> bool {
        self.config.get("kiln").and_then(|kiln| kiln.get("baking")).is_some_and(|baking| baking.to_json() == true)
    }
}

#[cfg(test)]
impl Context {
    /// Surroundings on a tree, for the tests of handlers.
    pub fn for_test(root: &std::path::Path, user_data: &str) -> Self {
        let (config, _) = kiln_schema::yaml::parse("user-data", user_data).unwrap();
        let system = System::new(root);
        let report = Report::begin(&system);
        let instance = Arc::new(Instance::new("test", "i-test"));
        Context::new(system, instance, Arc::new(config), Arc::new([]), report)
    }

    /// The same surroundings with a status in which something has happened.
    pub fn with_report(self, report: Report) -> Self {
        Context { report, ..self }
    }

    /// Runs a handler on the configuration of this context.
    pub fn run_handler<H: crate::handlers::Handler>(&mut self) -> crate::handlers::Handled
    where
        H::Config: Send,
    {
        let config = self.config.clone();
        let prepared = crate::handlers::Entry::of::<H>().prepare(&config);
        let run = prepared.run.unwrap_or_else(|| panic!("{:?}", prepared.diagnostics));
        (run.work)(self)
    }
}
