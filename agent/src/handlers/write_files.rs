//! Files of the user-data.
//!
//! A file that is to wait (`defer`), or whose owner does not exist yet, is written by a second pass in
//! the final stage. The first pass leaves the paths of the latter in a file of the instance's folder,
//! so that the second one knows them also after a reboot in between.

use std::fmt;

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::paths;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Each, Mode, Node};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::{Value as Json, json};

use super::{Failure, Finds, Frequency, Handled, Handler, Outcome, check, items};
use crate::context::Context;
use crate::report::instance_folder;
use crate::system::FileOptions;
use crate::userdata::gunzip;

/// Writes files, early.
pub struct WriteFiles;
/// Writes the files that had to wait.
pub struct WriteFilesDeferred;

const PLAIN: &[&str] = &["text/plain"];
const BASE64: &[&str] = &["b64", "base64"];
const GZIP: &[&str] = &["gz", "gzip"];
const BOTH: &[&str] = &["gz+b64", "gz+base64", "gzip+b64", "gzip+base64"];

/// Most bytes that a packed file may become.
const MAX_FILE: usize = 256 * 1024 * 1024;

/// Files.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Files to write, in order.
    // The tree is read item by item, for the place of each; this checks it and documents it.
    write_files: Each<File>,
}

/// One file.
#[derive(Deserialize, JsonSchema)]
struct File {
    /// Where; an absolute path. Folders that lack are made.
    path: String,
    /// What is in it; without it the file is empty.
    #[serde(default)]
    content: Bytes,
    /// How the content is written here: `text/plain`, `b64`, `gzip`, `gz+b64` and their long names.
    #[serde(default)]
    encoding: Option<String>,
    /// `user:group`. A file whose owner does not exist yet is written in the final stage.
    #[serde(default)]
    owner: Option<String>,
    /// Octal permission bits, 0644 if absent.
    #[serde(default)]
    permissions: Option<Mode>,
    /// Add to the end of a file that exists, which keeps its owner and permissions unless they are given.
    #[serde(default)]
    append: bool,
    /// Write it in the final stage, after packages and users.
    #[serde(default)]
    defer: bool,
    /// Where to fetch the content; not supported yet.
    #[serde(default)]
    source: Option<Source>,
}

/// Where to fetch a file.
#[derive(Deserialize, JsonSchema)]
struct Source {
    /// The address.
    #[serde(default)]
    #[expect(dead_code, reason = "known, so that it is no unknown key; fetching is not supported yet")]
    uri: Option<String>,
    /// Headers of the request.
    #[serde(default)]
    #[expect(dead_code, reason = "as above")]
    headers: Option<std::collections::BTreeMap<String, String>>,
}

/// Text, or bytes that were tagged `!!binary`.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Raw)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Content".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "Text, or bytes tagged `!!binary`", "type": ["string", "number", "boolean", "null"]})
    }
}

impl Handler for WriteFiles {
    const NAME: &'static str = "write_files";
    const SUMMARY: &'static str = "Writes files";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let known = [PLAIN, BASE64, GZIP, BOTH].concat();
        let encoding = |(index, file): (usize, &Node)| {
            let path = format!("write_files[{index}].encoding");
            file.get("encoding").and_then(|node| check::word(node, &path, &known))
        };
        let lacking = |(index, file): (usize, &Node)| {
            let source =
                file.get("source").filter(|source| !source.entries().is_empty() && source.get("uri").is_none())?;
            let path = format!("write_files[{index}].source");
            Some(source.diagnostic(Severity::Warning, &path, "the key `uri` is missing, so nothing is fetched"))
        };
        let files = || items(config, "write_files").iter().enumerate();
        files().filter_map(encoding).chain(files().filter_map(lacking)).collect()
    }

    fn run(_: &Config, context: &mut Context) -> Handled {
        let mut pass = Pass::default();
        let mut ownerless = Vec::new();
        for (index, item) in items(&context.config, "write_files").iter().enumerate() {
            let place = Place { index, line: item.place.line };
            match read(item) {
                Ok(file) if file.defer => pass.deferred.push(file.path),
                Ok(file) if file.owner.as_ref().is_some_and(|owner| context.system.owner_ids(owner).is_err()) => {
                    pass.deferred.push(file.path.clone());
                    ownerless.push(file.path);
                }
                Ok(file) => pass.note(place, &file.path, write(context, &file)),
                Err(failure) => pass.note(place, "", Err(failure)),
            }
        }
        if !ownerless.is_empty() {
            let options = FileOptions::mode(0o600).durable();
            context.system.write(waiting(context), json!(ownerless).to_string(), options)?;
        }
        pass.outcome()
    }
}

impl Handler for WriteFilesDeferred {
    const NAME: &'static str = "write_files_deferred";
    const SUMMARY: &'static str = "Writes the files that wait for their owner or for the end";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|system, config, _| {
        let deferred = |file: &Node| file.get("defer").is_some();
        items(config, "write_files").iter().any(deferred)
            || system.exists(format!("{}/{WAITING}", paths::CURRENT_INSTANCE))
    });
    type Config = Config;

    fn run(_: &Config, context: &mut Context) -> Handled {
        let ownerless = context.system.read(waiting(context)).unwrap_or_default();
        let ownerless: Vec<String> = serde_json::from_slice(&ownerless).unwrap_or_default();
        let mut pass = Pass::default();
        for (index, item) in items(&context.config, "write_files").iter().enumerate() {
            // The first pass has told of an entry that cannot be read.
            let Ok(file) = read(item) else { continue };
            if file.defer || ownerless.contains(&file.path) {
                pass.note(Place { index, line: item.place.line }, &file.path, write(context, &file));
            }
        }
        if pass.written.is_empty() && pass.failed.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no file had to wait".to_owned()));
        }
        pass.outcome()
    }
}

/// Where the first pass tells the second which files wait for their owner, in the instance's folder.
const WAITING: &str = "write_files.waiting";

fn waiting(context: &Context) -> String {
    format!("{}/{WAITING}", instance_folder(&context.instance.id))
}

struct Place {
    index: usize,
    line: usize,
}

/// What came of each file.
#[derive(Default)]
struct Pass {
    written: Vec<String>,
    deferred: Vec<String>,
    failed: Vec<(Reason, String)>,
}

impl Pass {
    fn note(&mut self, place: Place, path: &str, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.written.push(path.to_owned()),
            Err(failure) => {
                let Place { index, line } = place;
                let path = if path.is_empty() { String::new() } else { format!("{path}, ") };
                let sentence = format!("write_files[{index}] ({path}line {line}): {}", failure.message);
                self.failed.push((failure.reason, sentence));
            }
        }
    }

    fn outcome(self) -> Handled {
        let mut detail = json!({"written": self.written});
        if !self.deferred.is_empty() {
            detail["deferred"] = json!(self.deferred);
        }
        let Some((reason, first)) = self.failed.first() else { return Ok(Outcome::Ok(Some(detail))) };
        detail["failed"] = self.failed.iter().map(|(_, sentence)| Json::from(sentence.as_str())).collect();
        let message = match self.failed.len() {
            1 => first.clone(),
            many => format!("{many} files were not written, the first: {first}"),
        };
        Err(Failure::new(*reason, message).with_detail(detail))
    }
}

fn read(item: &Node) -> Result<File, Failure> {
    let bad = |message: String| Failure::new(Reason::Config, message);
    let checked = yaml::read::<File>(item, "");
    let Some(file) = checked.value else {
        let error = checked.diagnostics.iter().rfind(|finding| finding.severity == Severity::Error);
        return Err(bad(error.map_or_else(String::new, |error| match error.path.as_str() {
            "" => error.message.clone(),
            path => format!("{path}: {}", error.message),
        })));
    };
    if !file.path.starts_with('/') {
        return Err(bad(format!("the path `{}` is not absolute", file.path)));
    }
    if file.source.is_some() {
        let message = "source: fetching a file is not supported yet; give its content, or fetch it in runcmd";
        return Err(Failure::new(Reason::Unsupported, message));
    }
    Ok(file)
}

fn write(context: &Context, file: &File) -> Result<(), Failure> {
    let system = &context.system;
    let bad = |message| Failure::new(Reason::Config, message);
    let mut bytes = decode(file).map_err(bad)?;
    let given = file.owner.as_deref().map(|owner| system.owner_ids(owner)).transpose().map_err(bad)?;
    let old = if file.append { system.metadata(&file.path).ok() } else { None };
    if old.is_some() {
        let mut whole = system.read(&file.path)?;
        whole.append(&mut bytes);
        bytes = whole;
    }
    // Who is not root has no other owner to give.
    let root = nix::unistd::geteuid().is_root().then_some((0, 0));
    let owner = given.or(if old.is_some() { None } else { root });
    let mode = file.permissions.map(|mode| mode.0).or(if old.is_some() { None } else { Some(0o644) });
    if let Some((folder, _)) = file.path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
        system.make_dir(folder, 0o755, owner)?;
    }
    Ok(system.write(&file.path, bytes, FileOptions { mode, owner, durable: false })?)
}

/// The bytes of the file. An error never shows any of the content.
fn decode(file: &File) -> Result<Vec<u8>, String> {
    let encoding = file.encoding.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
    let is = |names: &[&str]| names.contains(&encoding.as_str());
    let content = &file.content.0;
    if encoding.is_empty() || is(PLAIN) {
        Ok(content.clone())
    } else if is(BASE64) {
        base64(content)
    } else if is(GZIP) {
        gunzip(content, MAX_FILE)
    } else if is(BOTH) {
        gunzip(&base64(content)?, MAX_FILE)
    } else {
        let names = [BASE64, GZIP, BOTH, PLAIN].concat();
        let meant = nearest(&encoding, names).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        Err(format!("unknown encoding `{encoding}`{meant}"))
    }
}

fn base64(content: &[u8]) -> Result<Vec<u8>, String> {
    yaml::scalar::decode_binary(&String::from_utf8_lossy(content))
        .ok_or_else(|| "the content is not whole base64; encode the file again".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::system::System;

    fn run(user_data: &str) -> (tempfile::TempDir, Context, Result<Json, Failure>) {
        let tree = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\n";
        System::new(tree.path()).write("/etc/passwd", passwd, FileOptions::default()).unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        let result = context.run_handler::<WriteFiles>().map(|outcome| match outcome {
            Outcome::Ok(detail) => detail.unwrap(),
            other => panic!("{other:?}"),
        });
        (tree, context, result)
    }

    #[test]
    fn every_encoding_of_cloud_init_is_read() {
        let packed = "H4sIAAAAAAACA8tIzcnJBwCGphA2BQAAAA==";
        for (encoding, content) in [
            ("text/plain", "hello"),
            ("b64", "aGVsbG8="),
            ("BASE64", "\"aGVs\\n  bG8=\""),
            ("gz", &format!("!!binary {packed}")),
            ("gzip", &format!("!!binary {packed}")),
            ("gz+b64", packed),
            ("gz+base64", packed),
            ("gzip+b64", packed),
            ("gzip+base64", packed),
        ] {
            let (_tree, context, result) =
                run(&format!("write_files:\n- path: /a\n  encoding: {encoding}\n  content: {content}\n"));
            assert_eq!(result.map(|_| context.system.read_text("/a").unwrap()), Ok("hello".to_owned()), "{encoding}");
        }
    }

    #[test]
    fn the_mode_is_what_was_spelled_and_an_appended_file_keeps_its_own() {
        for (spelling, mode) in [("0600", 0o600), ("'0640'", 0o640), ("644", 0o644), ("0o755", 0o755), ("~", 0o644)] {
            let (_tree, context, _) = run(&format!("write_files: [{{path: /d/a, permissions: {spelling}}}]"));
            assert_eq!(context.system.metadata("/d/a").unwrap().mode() & 0o7777, mode, "{spelling}");
            assert_eq!(context.system.metadata("/d").unwrap().mode() & 0o7777, 0o755);
        }
        let appended =
            "write_files: [{path: /a, content: one, permissions: '0600'}, {path: /a, content: two, append: yes}]";
        let (_tree, context, _) = run(appended);
        assert_eq!(context.system.read_text("/a").unwrap(), "onetwo");
        assert_eq!(context.system.metadata("/a").unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_bad_entry_is_told_with_its_place_and_hides_no_other() {
        let cases = [
            (
                "{path: /b, encoding: b64, content: 'hunter2!'}",
                "write_files[1] (/b, line 3): the content is not whole base64",
            ),
            ("{path: /b, encoding: bas64, content: x}", "did you mean `base64`?"),
            ("{path: /b, encoding: gzip, content: x}", "the gzip data is"),
            ("{path: b}", "write_files[1] (line 3): the path `b` is not absolute"),
            ("{content: x}", "the key `path` is missing"),
            ("{path: /b, content: [x]}", "content: expected text, found a list"),
            ("{path: /b, permissions: rw}", "permissions: not a file mode"),
            ("{path: /b, source: {uri: 'http://x/'}}", "source: fetching a file is not supported yet"),
            ("{path: /etc/passwd/b}", "write_files[1] (/etc/passwd/b, line 3): /etc/passwd"),
            ("just text", "expected a mapping, found text"),
        ];
        for (entry, sentence) in cases {
            let (_tree, context, result) = run(&format!("write_files:\n- path: /a\n- {entry}\n- path: /c\n"));
            let failure = result.unwrap_err();
            assert!(failure.message.contains(sentence), "{entry}: {}", failure.message);
            assert!(!format!("{failure:?}").contains("hunter2"));
            assert!(context.system.exists("/a") && context.system.exists("/c"), "{entry}");
        }
        let (_tree, _, result) = run("write_files: [{path: a}, {path: b}]");
        assert!(result.unwrap_err().message.starts_with("2 files were not written, the first: write_files[0]"));
    }

    #[test]
    fn a_file_without_its_owner_waits_for_the_final_stage() {
        let user_data = "write_files: [{path: /a, owner: 'late:late'}, {path: /b, defer: true}, {path: /c}]";
        let (_tree, mut context, result) = run(user_data);
        assert_eq!(result.unwrap(), json!({"written": ["/c"], "deferred": ["/a", "/b"]}));
        let failure = context.run_handler::<WriteFilesDeferred>().unwrap_err();
        assert!(failure.message.contains("write_files[0] (/a, line 1): no user `late`"), "{}", failure.message);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        context
            .system
            .write("/etc/passwd", format!("late:x:{uid}:{gid}::/:/bin/sh\n"), FileOptions::default())
            .unwrap();
        context.system.write("/etc/group", format!("late:x:{gid}:\n"), FileOptions::default()).unwrap();
        context.run_handler::<WriteFilesDeferred>().unwrap();
        assert!(context.system.exists("/a") && context.system.exists("/b"));
    }

    #[test]
    fn with_nothing_to_wait_for_the_second_pass_is_skipped() {
        let (_tree, mut context, _) = run("write_files: [{path: /a}]");
        let outcome = context.run_handler::<WriteFilesDeferred>().unwrap();
        assert_eq!(outcome, Outcome::Skipped(Reason::NothingToDo, "no file had to wait".to_owned()));
    }
}
