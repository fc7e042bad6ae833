//! The builder.

pub mod deb;
pub mod system;
