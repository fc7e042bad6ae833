//! Randomness from the user-data for the kernel's pool.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Failure, Frequency, Handled, Handler, Outcome, check, items, reason_of};
use crate::context::Context;
use crate::system::{FileOptions, RunError};
use crate::userdata::gunzip;

/// Most bytes that packed data may become.
const MAX_SEED: usize = 16 * 1024 * 1024;

/// What data may be packed in.
const ENCODINGS: &[&str] = &["raw", "base64", "b64", "gzip", "gz"];

/// Adds randomness.
pub struct RandomSeed;

/// Keys of the random seed.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Randomness for the kernel.
    random_seed: Option<Keys>,
}

/// Randomness for the kernel.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// The file that the data is added to; /dev/urandom without the key.
    file: Option<String>,
    /// The data.
    data: Option<String>,
    /// How the data is written: `raw`, as without the key, `base64` or `b64`, `gzip` or `gz`.
    encoding: Option<String>,
    /// A program and its arguments to run afterwards, with the file's path in RANDOM_SEED_FILE.
    command: Each<String>,
    /// Fail where that program is not installed.
    command_required: bool,
}

impl Handler for RandomSeed {
    const NAME: &'static str = "random_seed";
    const SUMMARY: &'static str = "Adds randomness to the kernel's pool";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let encoding = config.get("random_seed").and_then(|keys| keys.get("encoding"));
        encoding.and_then(|node| check::word(node, "random_seed.encoding", ENCODINGS)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let Some(keys) = &config.random_seed else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no randomness is given".to_owned()));
        };
        let file = keys.file.as_deref().unwrap_or("/dev/urandom");
        let mut failures = Vec::new();
        let mut bytes = 0;
        match add(keys, file, context) {
            Ok(count) => bytes = count,
            Err(failure) => failures.push(failure),
        }
        let ran = match command(keys, file, context) {
            Ok(ran) => ran,
            Err(failure) => {
                failures.push(failure);
                false
            }
        };
        let detail = json!({"file": file, "bytes": bytes, "command_ran": ran});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Adds the data to the file; how many bytes.
fn add(keys: &Keys, file: &str, context: &Context) -> Result<usize, Failure> {
    let refuse = |key: &str, why: String| Failure::new(Reason::Config, format!("random_seed.{key}: {why}"));
    if keys.data.is_none() {
        return Ok(0);
    }
    if !file.starts_with('/') {
        return Err(refuse("file", format!("the path `{file}` is not absolute")));
    }
    let data = data(context);
    let encoding = keys.encoding.as_deref().unwrap_or("raw").to_lowercase();
    let bytes = match encoding.as_str() {
        "raw" | "" => data,
        "base64" | "b64" => {
            let compact: Vec<u8> = data.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
            STANDARD.decode(compact).map_err(|_| refuse("data", "not whole base64; encode it again".to_owned()))?
        }
        "gzip" | "gz" => {
            let why = "not whole gzip data, which a document holds as `!!binary`".to_owned();
            gunzip(&data, MAX_SEED).map_err(|_| refuse("data", why))?
        }
        _ => {
            let known = "write raw, base64 or gzip";
            return Err(refuse("encoding", format!("there is no encoding `{encoding}`; {known}")));
        }
    };
    // A device that is not there would become a file of that name.
    if file.starts_with("/dev/") && !context.system.exists(file) {
        return Err(Failure::new(Reason::Io, format!("random_seed.file: the machine has no device {file}")));
    }
    context.system.append(file, &bytes, FileOptions::mode(0o600))?;
    Ok(bytes.len())
}

/// The data as bytes: packed data is tagged `!!binary`, and no text.
fn data(context: &Context) -> Vec<u8> {
    use kiln_schema::yaml::{Value, scalar};
    let node = context.config.get("random_seed").and_then(|seed| seed.get("data"));
    match node.map(|node| &node.value) {
        Some(Value::Scalar(scalar)) if scalar.tag.as_deref() == Some("binary") => {
            scalar::decode_binary(&scalar.text).unwrap_or_default()
        }
        Some(Value::Scalar(scalar)) => scalar.text.clone().into_bytes(),
        _ => Vec::new(),
    }
}

/// Runs the command; whether there was one.
fn command(keys: &Keys, file: &str, context: &Context) -> Result<bool, Failure> {
    let refuse = |reason, why: String| Err(Failure::new(reason, format!("random_seed.command: {why}")));
    let Some((program, args)) = keys.command.split_first() else {
        let why = "command_required is true and no command is given; name a program".to_owned();
        return if keys.command_required { refuse(Reason::Config, why) } else { Ok(false) };
    };
    // A word that could not be read would make another command of it.
    let written = context.config.get("random_seed").map_or(0, |seed| items(seed, "command").len());
    if written != keys.command.len() {
        return refuse(Reason::Config, "one of its words is no text; correct it".to_owned());
    }
    let command = context.command(program).args(args).env("RANDOM_SEED_FILE", file);
    match context.run(&command) {
        Ok(finished) if finished.success() => Ok(true),
        Ok(finished) => refuse(Reason::CommandFailed, format!("{program} {}", finished.ending())),
        Err(RunError::Missing(_)) if !keys.command_required => Ok(false),
        Err(error) => refuse(reason_of(&error), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::testing;

    fn run(keys: &str) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), &format!("random_seed: {keys}"));
        let handled = context.run_handler::<RandomSeed>();
        (tree, context, handled)
    }

    #[test]
    fn data_of_every_encoding_is_added_to_a_file_that_only_root_reads() {
        for keys in [
            "{file: /seed, data: hello}",
            "{file: /seed, data: hello, encoding: raw}",
            "{file: /seed, data: aGVs bG8=, encoding: BASE64}",
            "{file: /seed, data: !!binary H4sIAAAAAAACA8tIzcnJBwCGphA2BQAAAA==, encoding: gzip}",
        ] {
            let (_tree, context, handled) = run(keys);
            let detail = json!({"file": "/seed", "bytes": 5, "command_ran": false});
            assert_eq!(handled, Ok(Outcome::Ok(Some(detail))), "{keys}");
            assert_eq!(context.system.read_text("/seed").unwrap(), "hello");
            assert_eq!(context.system.metadata("/seed").unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_data() {
        for (keys, sentence) in [
            ("{file: /seed, data: 'hunter2!', encoding: b64}", "random_seed.data: not whole base64"),
            ("{file: /seed, data: hunter2, encoding: gz}", "random_seed.data: not whole gzip data"),
            ("{file: /seed, data: hunter2, encoding: rot13}", "there is no encoding `rot13`; write raw"),
            ("{file: seed, data: hunter2}", "the path `seed` is not absolute"),
            ("{data: hunter2}", "the machine has no device /dev/urandom"),
            ("{command_required: true}", "command_required is true and no command is given"),
            ("{command: [nope], command_required: true}", "random_seed.command: nope is not installed"),
            ("{command: [echo, [a], b]}", "one of its words is no text"),
        ] {
            let (_tree, context, handled) = run(keys);
            let failure = handled.unwrap_err();
            assert!(failure.message.contains(sentence), "{keys}: {}", failure.message);
            assert!(!format!("{failure:?}").contains("hunter2"));
            assert!(!context.system.exists("/seed") && !context.system.is_there("/dev/urandom"));
        }
    }

    #[test]
    fn the_command_runs_with_the_file_and_may_be_missing() {
        let (_tree, _, handled) = run("{command: [nope]}");
        assert!(matches!(handled, Ok(Outcome::Ok(Some(detail))) if detail["command_ran"] == false));
        let tree = tempfile::tempdir().unwrap();
        let user_data =
            "random_seed: {file: /seed, command: [/usr/bin/dash, -c, 'echo $RANDOM_SEED_FILE > /ran; exit 3']}";
        let Some(mut context) = testing::machine(tree.path(), &["/usr/bin/dash"], user_data) else { return };
        let failure = context.run_handler::<RandomSeed>().unwrap_err();
        assert_eq!(failure.message, "random_seed.command: /usr/bin/dash exited 3");
        assert_eq!(context.system.read_text("/ran").unwrap(), "/seed\n");
    }
}
