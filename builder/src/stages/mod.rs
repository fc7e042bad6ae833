//! Stages.

pub mod line;
