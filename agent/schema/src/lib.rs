//! What the agent and the builder share: the status file, diagnostics, the reading of user-data
//! documents, and where things lie. Types and pure functions only: no network, no effects.

pub mod diagnostic;
pub mod duration;
pub mod gate;
pub mod paths;
pub mod seal;
pub mod status;
pub mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use status::{HandlerReport, OutcomeKind, Reason, State, Status};
