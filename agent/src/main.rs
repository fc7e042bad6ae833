//! The `kiln-agent` program.
fn main() {}
