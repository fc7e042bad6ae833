//! Puppet.
pub mod summary;
