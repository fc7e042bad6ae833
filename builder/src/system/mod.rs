//! The only code of this crate that changes files and starts programs.
//!
//! Everything else works on values, so a reader who asks what `kiln` does to a machine reads here.
#![allow(clippy::disallowed_methods, reason = "this module is where the effects are")]

pub mod files;
mod follow;
pub mod process;
pub mod tools;
