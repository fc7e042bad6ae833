//! The boot agent.
