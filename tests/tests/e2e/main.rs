//! End-to-end cases on the lab: real packer, real puppet, real systemd, an AWS emulator over HTTP.
//!
//! `tests/e2e.sh` makes what they need and runs them; without it they are left out.

mod apt;
mod bases;
mod boot;
mod canary;
mod checks;
mod disks;
mod drop_in;
mod empty_root;
mod factory;
mod gate;
mod labs;
mod packer;
mod phone_home;
mod pipelines;
mod proof;
mod puppet;
mod refusals;
mod regions;
mod root;
mod route53;
mod users;
