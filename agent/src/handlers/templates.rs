//! Files rendered at every boot from what is known of the instance.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Argv, Each, Mode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Failure, Frequency, Handled, Handler, Outcome, commands};
use crate::context::Context;
use crate::system::{Command, FileOptions};
use crate::template;

/// A command that a template notifies is ended after this.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// A template is text that a person wrote.
const LIMIT: u64 = 1024 * 1024;

/// Renders files before the services start that read them.
pub struct Templates;

/// Keys of the templates.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Files to render at every boot.
    templates: Each<Template>,
}

/// One file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Template {
    /// The file to write.
    path: String,
    /// The template: a file of the image.
    source: Option<String>,
    /// The template itself, in place of `source`.
    content: Option<String>,
    /// `user:group` of the file; `root:root` for a new one.
    owner: Option<String>,
    /// Permission bits; 0644 for a new file.
    permissions: Option<Mode>,
    /// Run after the file has changed, and only then.
    notify: Option<Argv>,
}

impl Handler for Templates {
    const NAME: &'static str = "templates";
    const SUMMARY: &'static str = "Renders files from the instance's names and addresses";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let variables = template::variables(context);
        let mut problems: Vec<Failure> = Vec::new();
        let (mut changed, mut unchanged) = (Vec::new(), 0);
        let mut notified: Vec<(&str, &Argv)> = Vec::new();
        for template in config.templates.iter() {
            let told = |failure: Failure| failure.under(&template.path);
            match write(template, &variables, context) {
                Ok(true) => {
                    changed.push(template.path.as_str());
                    // Several files of one service make it reload once.
                    let command = template.notify.iter().filter(|new| !notified.iter().any(|(_, known)| known == new));
                    let told: Vec<_> = command.map(|command| (template.path.as_str(), command)).collect();
                    notified.extend(told);
                }
                Ok(false) => unchanged += 1,
                Err(failure) => problems.push(told(failure)),
            }
        }
        problems.extend(notified.into_iter().filter_map(|(path, command)| notify(path, command, context).err()));
        let detail = json!({"changed": changed, "unchanged": unchanged});
        match Failure::all(problems) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Brings one file up to date and tells whether that changed it.
fn write(template: &Template, variables: &Json, context: &Context) -> Result<bool, Failure> {
    let refuse = |message: String| Failure::new(Reason::Config, message);
    let (path, system) = (&template.path, &context.system);
    if !path.starts_with('/') {
        return Err(refuse("the path is not absolute".to_owned()));
    }
    let (name, text) = match (&template.source, &template.content) {
        (Some(source), None) => {
            let bytes = system.read_limited(source, LIMIT)?;
            let text = String::from_utf8(bytes).map_err(|_| refuse(format!("{source} is not text in UTF-8")))?;
            (source.as_str(), text)
        }
        (None, Some(content)) => ("its content", content.clone()),
        (Some(_), Some(_)) => return Err(refuse("it has both `source` and `content`; give one".to_owned())),
        (None, None) => return Err(refuse("it has neither `source` nor `content`".to_owned())),
    };
    let rendered = template::render(name, &text, variables).map_err(|why| Failure::new(Reason::Template, why))?;
    let owner = template.owner.as_deref().map(|owner| system.owner_ids(owner)).transpose();
    let owner = owner.map_err(|why| refuse(format!("owner: {why}")))?;
    let mode = template.permissions.map(|mode| mode.0);
    if let (Ok(metadata), Ok(bytes)) = (system.metadata(path), system.read(path)) {
        let same_owner = owner.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()));
        let same_mode = mode.is_none_or(|mode| mode == metadata.permissions().mode() & 0o7777);
        if bytes == rendered.as_bytes() && same_owner && same_mode {
            return Ok(false);
        }
    }
    system.write(path, rendered, FileOptions { mode, owner, durable: true })?;
    Ok(true)
}

/// Runs a command after a change. Its text may hold a password, so it is named by its file and its program.
fn notify(path: &str, command: &Argv, context: &Context) -> Result<(), Failure> {
    let timeout = NOTIFY_TIMEOUT.min(context.time_left());
    let (run, program) = match command {
        Argv::Shell(line) => (Command::new("/bin/sh", timeout).args(["-c", line]), commands::program(line)),
        Argv::Words(words) => {
            let program = words.first().map(String::as_str);
            (Command::new(program.unwrap_or_default(), timeout).args(words.iter().skip(1).cloned()), program)
        }
    };
    let label = format!("{path}: its notify command{}", program.map_or(String::new(), |name| format!(" (`{name}`)")));
    let done = context.run(&run).map_err(|error| {
        let failure = Failure::from(error);
        Failure { message: format!("{label} did not run: {}", failure.message), ..failure }
    })?;
    if done.success() {
        return Ok(());
    }
    let said = done.last_lines(3).join("; ");
    let said = if said.is_empty() { said } else { format!(": {said}") };
    Err(Failure::new(Reason::CommandFailed, format!("{label} {}{said}", done.ending())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    const SHELL: &[&str] = &["/bin/sh"];

    fn run(context: &mut Context) -> (Json, String) {
        match context.run_handler::<Templates>() {
            Ok(Outcome::Ok(detail)) => (detail.unwrap(), String::new()),
            Err(failure) => (failure.detail.clone().unwrap(), format!("{} {}", failure.reason.code(), failure.message)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_written_when_content_mode_or_owner_differ_and_only_then() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "{fqdn: web.example.org, templates: [{path: /etc/motd, content: \"I am {{ fqdn }}\\n\", permissions: 640, owner: '0:4'}]}";
        let Some(mut context) = machine(tree.path(), &[], user_data) else { return };
        let (changed, unchanged) =
            (json!({"changed": ["/etc/motd"], "unchanged": 0}), json!({"changed": [], "unchanged": 1}));
        let system = context.system.clone();
        assert_eq!(run(&mut context), (changed.clone(), String::new()));
        assert_eq!(system.read_text("/etc/motd").unwrap(), "I am web.example.org\n");
        let metadata = system.metadata("/etc/motd").unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 0, 4));
        assert_eq!(run(&mut context), (unchanged.clone(), String::new()));
        assert_eq!(system.metadata("/etc/motd").unwrap().ino(), metadata.ino(), "the file was not replaced");
        system.set_mode("/etc/motd", 0o600).unwrap();
        assert_eq!(run(&mut context).0, changed);
        system.set_owner("/etc/motd", 0, 0).unwrap();
        assert_eq!(run(&mut context).0, changed);
        system.write("/etc/motd", "other", FileOptions::default()).unwrap();
        assert_eq!(run(&mut context).0, changed);
        assert_eq!(run(&mut context).0, unchanged);
    }

    #[test]
    fn notify_runs_after_a_change_once_for_equal_commands() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "templates:\n- {path: /a, content: 'x', notify: 'echo told >>/log'}\n\
            - {path: /b, content: 'y', notify: 'echo told >>/log'}\n- {path: /c, content: z, notify: [/bin/sh, -c, 'echo words >>/log']}\n";
        let Some(mut context) = machine(tree.path(), SHELL, user_data) else { return };
        assert_eq!(run(&mut context).1, "");
        assert_eq!(run(&mut context).1, "");
        assert_eq!(context.system.read_text("/log").unwrap(), "told\nwords\n");
    }

    #[test]
    fn each_entry_stands_alone_and_every_failure_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "templates:\n- {path: /a, content: \"\\n{{ nope }}\"}\n- {path: /b, source: /missing}\n- {path: c, content: x}\n\
            - {path: /d}\n- {path: /e, content: x, source: /x}\n- {path: /f, content: x, owner: nobody-here}\n\
            - {path: /g, content: x, notify: 'echo broken >&2; exit 3'}\n- {path: /h, content: x, notify: [not-a-program]}\n- {path: /etc, content: x}\n";
        let Some(mut context) = machine(tree.path(), SHELL, user_data) else { return };
        let (detail, message) = run(&mut context);
        assert_eq!(detail, json!({"changed": ["/g", "/h"], "unchanged": 0}));
        assert!(message.starts_with("template /a: its content line 2: `nope` is not defined: "), "{message}");
        for part in [
            "; /b: /missing: No such file",
            "; c: the path is not absolute",
            "; /d: it has neither `source` nor `content`",
            "; /e: it has both `source` and `content`",
            "; /f: owner: no user `nobody-here`",
            "; /etc: ",
            "; /g: its notify command (`echo`) exited 3: broken",
            "; /h: its notify command (`not-a-program`) did not run: not-a-program is not installed",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!context.system.exists("/a") && !context.system.exists("/f"));
    }

    #[test]
    fn a_source_of_the_image_is_rendered_with_the_metadata() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "{role: jetty, templates: [{path: /etc/app/env, source: /usr/share/env.tmpl}]}";
        let mut context = Context::for_test(tree.path(), user_data);
        std::sync::Arc::make_mut(&mut context.instance).metadata = json!({"tags": {"stack": "blue"}});
        let text = "ROLE={{ role }}\n{% if zone is defined %}\nZONE={{ zone }}\n{% endif %}\nSTACK={{ metadata.tags.stack }}\n";
        context.system.write("/usr/share/env.tmpl", text, FileOptions::default()).unwrap();
        assert_eq!(run(&mut context).1, "");
        assert_eq!(context.system.read_text("/etc/app/env").unwrap(), "ROLE=jetty\nSTACK=blue\n");
    }
}
