//! What the end-to-end cases share: the lab that is up, machines in it, and servers that machines reach.
//!
//! `tests/e2e.sh` makes the lab, bakes the golden image and then runs the cases; `make test` calls it.

mod apart;
mod lab;
mod server;

pub use apart::skip;
pub use lab::{Baked, Lab, Machine, Ran, bake, kiln, lab, program, run};
pub use server::{Answer, Request, Server};
