//! EC2 on one machine.
