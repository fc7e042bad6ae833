//! The builder.

pub mod cli;
pub mod deb;
pub mod system;
