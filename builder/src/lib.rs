//! The builder.

pub mod aws;
pub mod bake;
pub mod canary;
pub mod cli;
pub mod deb;
pub mod gate;
pub mod images;
pub mod journal;
pub mod packer;
pub mod pipeline;
pub mod regions;
pub mod stages;
pub mod system;
