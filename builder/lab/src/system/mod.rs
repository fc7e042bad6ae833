//! The only code of this crate that changes the machine: files, processes, mounts, namespaces.
//!
//! Everything else decides on values. What is here belongs to one lab each and is found again by
//! its name after a crash (see `reap`).
#![allow(clippy::disallowed_methods, reason = "this module is where the effects are")]

pub mod cgroup;
pub mod files;
pub mod mounts;
pub mod netns;
pub mod pids;
pub mod process;
