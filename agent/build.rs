//! Packs the schema of user-data into the program.

#![allow(clippy::disallowed_methods, reason = "a build script reads the source and writes for the compiler")]

use std::io::{self, Write};
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::GzEncoder;

const SCHEMA: &str = "user-data.schema.json";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let folder = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo names no OUT_DIR"))?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&fs::read(SCHEMA)?)?;
    fs::write(Path::new(&folder).join(format!("{SCHEMA}.gz")), packed.finish()?)
}
