//! `kiln-agent schema`: the JSON schema of user-data.
//!
//! It is made from the types that read user-data, by a test (`made`), and lies beside them in
//! `user-data.schema.json`: what makes it would be a twentieth of the program, which every boot maps.

use std::process::ExitCode;

use serde_json::{Value as Json, json};

use super::print::{complain, say_json};
use crate::handlers::external;
use crate::system::System;
use crate::userdata::gunzip;

#[cfg(test)]
pub mod made;

/// `user-data.schema.json`, packed by the build script.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/user-data.schema.json.gz"));
/// More than it will ever be, unpacked.
const LIMIT: usize = 16 * 1024 * 1024;

/// Prints the schema. The external handlers that are installed have their keys in it.
pub fn run(system: &System) -> ExitCode {
    let schema = gunzip(PACKED, LIMIT);
    match schema.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string())) {
        Ok(schema) => {
            say_json(&with_external(schema, &external::names(system)));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("the schema in this program is damaged: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn with_external(mut schema: Json, names: &[String]) -> Json {
    for name in names {
        schema["properties"][name] = json!({"description": "Read by an external handler"});
    }
    schema
}
