//! The boot agent.
//!
//! # Layout
//! Data flows one way, and `boot` is that way on one page:
//! - `datasources`: who tells an instance what it is;
//! - `userdata`: bytes to parts;
//! - `config`: every document merged, the higher rank over the lower;
//! - `handlers`: one thing done with the configuration each;
//! - `stage`: the only caller of handlers: frequency, journal, deadline, outcome;
//! - `report`: the status, written out at every change.
//!
//! Shared by handlers: `names` (the machine's two names), `distro`, `template`, `ssh`.
//!
//! `cloud_init` writes the files of cloud-init that other tools read, where the agent is in its place.
//!
//! `system` is the only code that touches files and runs commands, `net` the only one that speaks to
//! the network, `cli` what a person types.

pub mod authorized_keys;
pub mod boot;
pub mod cli;
pub mod cloud_init;
pub mod config;
pub mod context;
pub mod datasources;
pub mod ending;
pub mod gate;
pub mod handlers;
pub mod includes;
pub mod instance_data;
pub mod journal;
pub mod log;
pub mod names;
pub mod net;
pub mod network;
pub mod report;
pub mod seal;
pub mod ssh;
pub mod stage;
pub mod system;
pub mod template;
#[cfg(test)]
mod testing;
pub mod userdata;
mod worker;
