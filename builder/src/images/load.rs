//! From the text of kiln.yaml to [`Kilnfile`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Node};

use super::check::Checker;
use super::types::{Defaults, File, Image};
use super::{Error, GATE_TIMEOUT, Input, Kilnfile, PlacedFile, Recipe};
use crate::packer::scrub::Scrubber;

/// Reads and checks kiln.yaml.
///
/// # Errors
/// When it cannot be read, and with every finding at its place: an unknown key is an error here.
pub fn load(path: &Path) -> Result<Kilnfile, Error> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoFile(path.to_owned()),
        _ => Error::Unreadable { path: path.to_owned(), error },
    })?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    parse(path, &folder, &text)
}

fn parse(path: &Path, folder: &Path, text: &str) -> Result<Kilnfile, Error> {
    let (root, mut findings) =
        yaml::parse(&path.display().to_string(), text).map_err(|finding| Error::Findings(vec![*finding]))?;
    let checked = yaml::read::<File>(&root, "");
    findings.extend(checked.diagnostics);
    let Some(file) = checked.value.filter(|_| findings.is_empty()) else {
        return Err(Error::Findings(
            findings.into_iter().map(harden).map(|finding| without_secrets(finding, &root)).collect(),
        ));
    };

    let mut checker = Checker::new(&root, folder);
    checker.check(&file);
    let targets = checker.targets(&file);
    if !checker.findings.is_empty() {
        let findings = checker.findings.into_iter().map(|finding| without_secrets(finding, &root));
        return Err(Error::Findings(findings.collect()));
    }
    let images: IndexMap<_, _> = file
        .images
        .into_iter()
        .map(|(name, image)| {
            let user_data = root.get("images").and_then(|images| images.get(&name)?.get("user_data")).cloned();
            let recipe = recipe(&name, image, &file.defaults, user_data, folder);
            (name, recipe)
        })
        .collect();
    Ok(Kilnfile {
        path: path.to_owned(),
        folder: folder.to_owned(),
        images,
        targets,
        default_target: file.defaults.target,
    })
}

/// The line that a finding quotes may hold a password beside the mistake, and is printed into the logs of CI.
fn without_secrets(mut finding: Diagnostic, root: &Node) -> Diagnostic {
    let scrubber = Scrubber::default().and_user_data(Some(root));
    finding.excerpt = finding.excerpt.map(|line| scrubber.clean(&line));
    finding
}

/// A document of user-data is forgiven what nobody knows; this file is the project's own.
fn harden(mut finding: Diagnostic) -> Diagnostic {
    finding.severity = Severity::Error;
    finding
}

fn recipe(name: &str, image: Image, defaults: &Defaults, user_data: Option<Node>, folder: &Path) -> Recipe {
    let input = |given: String| Input { path: folder.join(&given), given };
    Recipe {
        name: name.to_owned(),
        layer: image.layer,
        from: image.from,
        role: image.role,
        version: image.version.unwrap_or_else(|| "0".to_owned()),
        build: image.build.unwrap_or_else(|| "0".to_owned()),
        release: image.release,
        environment: image.environment.or_else(|| defaults.environment.clone()).unwrap_or_else(|| "test".to_owned()),
        owner: image.owner.or_else(|| defaults.owner.clone()),
        store: image.store.or(defaults.store).unwrap_or_default(),
        arch: image.arch.or(defaults.arch).unwrap_or_default(),
        ssh_username: image
            .ssh_username
            .or_else(|| defaults.ssh_username.clone())
            .unwrap_or_else(|| "admin".to_owned()),
        instance_type: image.instance_type.or_else(|| defaults.instance_type.clone()),
        gate_timeout: image.gate_timeout.or(defaults.gate_timeout).map_or(GATE_TIMEOUT, |timeout| timeout.0),
        bake_timeout: image.bake_timeout.or(defaults.bake_timeout).map(|timeout| timeout.0),
        provision: image.provision.into_iter().map(input).collect(),
        files: image
            .files
            .into_iter()
            .map(|file| PlacedFile { source: input(file.source), destination: file.destination })
            .collect(),
        tests: image.tests.into_iter().map(input).collect(),
        user_data: user_data.filter(|node| !node.is_null()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
pub(crate) mod tests {
    use super::*;
    use crate::images::{Arch, Endpoint, From, Layer};

    const GOLDEN: &str = "golden: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-*\"}}}";

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("golden.sh"), "#!/bin/sh\n").unwrap();
        fs::write(folder.path().join("app.bats"), "@test x { true; }\n").unwrap();
        fs::create_dir(folder.path().join("puppet")).unwrap();
        folder
    }

    /// A file without mistakes.
    pub(crate) fn parsed(text: &str) -> Kilnfile {
        load(text).unwrap()
    }

    fn load(text: &str) -> Result<Kilnfile, Error> {
        parse(Path::new("kiln.yaml"), folder().path(), text)
    }

    #[test]
    fn a_file_that_uses_every_key_is_read() {
        let file = load(
            "defaults: {target: here, owner: sre, environment: demo, region: eu-west-1, store: ebs, arch: arm64, \
             ssh_username: debian, gate_timeout: 1h30m, bake_timeout: 3h, instance_type: t4g.large}\n\
             images:\n  app:\n    layer: app\n    from: golden\n    role: web\n    version: 1.10\n    build: 007\n    \
             release: \"12\"\n    provision: golden.sh\n    files: [{source: puppet, destination: /etc/p}]\n    \
             tests: [app.bats]\n    gate_timeout: 90s\n    bake_timeout: 2h\n    user_data: {write_files: [{path: /x, permissions: 0644}]}\n  \
             golden: {layer: golden, from: {ami: {owners: [self], name: \"debian-*\"}}}\n\
             targets:\n  here: {kind: amazon-ebs, endpoint: lab, packer: {plugin_path: plugins}}\n  there: {kind: amazon-ebs, region: us-east-1}\n  \
             else: {kind: amazon-ebs, endpoint: \"http://127.0.0.1:5000\"}\n",
        )
        .unwrap();
        let app = file.image("app").unwrap();
        assert_eq!((app.version.as_str(), app.build.as_str()), ("1.10", "007"), "a version is text, as spelled");
        assert_eq!((app.layer, app.arch, &app.from), (Layer::App, Arch::Arm64, &From::Image("golden".to_owned())));
        assert_eq!((app.provision[0].given.as_str(), app.gate_timeout.as_secs()), ("golden.sh", 90));
        assert_eq!(file.image("golden").unwrap().gate_timeout.as_secs(), 5400);
        assert_eq!(
            ["app", "golden"].map(|name| file.image(name).unwrap().bake_timeout.unwrap().as_secs() / 3600),
            [2, 3]
        );
        assert!(file.target(None).unwrap().plugin_path.as_ref().unwrap().ends_with("plugins"), "beside kiln.yaml");
        assert_eq!(file.target(Some("there")).unwrap().plugin_path, None);
        assert_eq!(file.target(None).unwrap().endpoint, Endpoint::Lab);
        assert_eq!(file.target(Some("there")).unwrap().region.as_deref(), Some("us-east-1"));
        assert_eq!(file.target(Some("else")).unwrap().region.as_deref(), Some("eu-west-1"), "the default");
        assert_eq!(file.target(Some("else")).unwrap().endpoint, Endpoint::Url("http://127.0.0.1:5000".to_owned()));
    }

    #[test]
    fn every_mistake_is_answered_at_its_place() {
        let app = |keys: &str| format!("images:\n  {GOLDEN}\n  app:\n    layer: app\n    from: golden\n    {keys}\n");
        let cases: &[(String, &str)] = &[
            ("imags: {}".into(), "kiln.yaml:1:1: error: imags: unknown key; did you mean `images`?"),
            (
                app("provison: [golden.sh]"),
                "kiln.yaml:6:5: error: images.app.provison: unknown key; did you mean `provision`?",
            ),
            (app("share_with: []"), "kiln.yaml:6:5: error: images.app.share_with: unknown key"),
            (
                app("gate_timeout: soon"),
                "kiln.yaml:6:19: error: images.app.gate_timeout: a number is missing; write a duration as 90s, 20m, 1h30m or 500ms",
            ),
            (app("bake_timeout: 2 h"), "kiln.yaml:6:19: error: images.app.bake_timeout: "),
            ("targets: {t: {kind: amazon-ebs, packer: {plugins: x}}}".into(), "targets.t.packer.plugins: unknown key"),
            (app("gate_timeout: 0s"), "kiln.yaml:6:19: error: images.app.gate_timeout: no time at all"),
            (
                app("arch: sparc"),
                "kiln.yaml:6:11: error: images.app.arch: unknown value; expected one of x86_64, arm64",
            ),
            (app("store: instance"), "kiln.yaml:6:12: error: images.app.store: unknown value; expected one of ebs"),
            (
                app("version: 1 2"),
                "kiln.yaml:6:14: error: images.app.version: `1 2` cannot be part of an image's name; use letters, digits, `.`, `_` and `-`",
            ),
            (
                app("provision: [golden.sh, lost.sh]"),
                "kiln.yaml:6:28: error: images.app.provision[1]: there is no file `lost.sh` beside kiln.yaml",
            ),
            (
                app("provision: [puppet]"),
                "kiln.yaml:6:17: error: images.app.provision[0]: `puppet` is a folder; name the script",
            ),
            (
                app("tests: lost.bats"),
                "kiln.yaml:6:12: error: images.app.tests: there is no file or folder `lost.bats`",
            ),
            (
                app("files: [{source: puppet, destination: etc/p}]"),
                "kiln.yaml:6:43: error: images.app.files[0].destination: `etc/p` is not an absolute path",
            ),
            (
                app("files: [{source: lost, destination: /etc/p}]"),
                "kiln.yaml:6:22: error: images.app.files[0].source: there is no file or folder `lost`",
            ),
            (
                app("files: [{source: puppet}]"),
                "kiln.yaml:6:13: error: images.app.files[0]: the key `destination` is missing",
            ),
            (app("user_data: [a]"), "kiln.yaml:6:16: error: images.app.user_data: expected a mapping, found a list"),
            (
                app("user_data: {kiln: {strict: false}}"),
                "kiln.yaml:6:17: error: images.app.user_data.kiln: the bake sets this key itself",
            ),
            (
                app("user_data: {role: web}"),
                "kiln.yaml:6:17: error: images.app.user_data.role: write `role` beside `user_data`",
            ),
            (
                app("user_data: {users: [{name: joe, plain_text_passwd: root}]}"),
                "kiln.yaml:6:56: error: images.app.user_data.users[0].plain_text_passwd: this secret cannot be kept out of logs",
            ),
            ("images: {a: {layer: app}}".into(), "kiln.yaml:1:13: error: images.a: the key `from` is missing"),
            (
                "images: {a: {layer: apps, from: b}}".into(),
                "kiln.yaml:1:21: error: images.a.layer: unknown value; expected one of foundation, golden, base, app; did you mean `app`?",
            ),
            (
                "images: {a: {layer: app, from: goldn}, golden: {layer: app, from: a}}".into(),
                "kiln.yaml:1:32: error: images.a.from: there is no image `goldn`; did you mean `golden`?",
            ),
            (
                "images: {a: {layer: app, from: {amii: {}}}}".into(),
                "images.a.from.amii: unknown key; did you mean `ami`?",
            ),
            ("images: {a: {layer: app, from: [a, b]}}".into(), "images.a.from: expected a mapping"),
            (
                "images: {a: {layer: app, from: {ami: {name: x}}}}".into(),
                "kiln.yaml:1:38: error: images.a.from.ami: the key `owners` is missing: list the accounts you trust, because anyone can publish an image under any name",
            ),
            (
                "images: {a: {layer: app, from: {ami: {name: x, owners: [debian]}}}}".into(),
                "images.a.from.ami.owners[0]: `debian` is no account: write its 12 digits in quotes, or self, amazon or aws-marketplace",
            ),
            (
                "images: {golden: {layer: golden, from: jetty}, jetty: {layer: base, from: golden}}".into(),
                "kiln.yaml:1:40: error: images.golden.from: images are built on each other: golden -> jetty -> golden",
            ),
            ("images: {a: {layer: app, from: a}}".into(), "images are built on each other: a -> a"),
            ("images: {\"a b\": {layer: app, from: \"a b\"}}".into(), "`a b` cannot be part of an image's name"),
            ("targets: {t: {kind: qemu}}".into(), "targets.t.kind: unknown value; expected one of amazon-ebs"),
            (
                "targets: {t: {kind: amazon-ebs, endpoint: labs}}".into(),
                "kiln.yaml:1:43: error: targets.t.endpoint: neither `lab` nor an address that begins with http:// or https://",
            ),
            (
                "targets: {t: {kind: amazon-ebs, regions: [x]}}".into(),
                "targets.t.regions: unknown key; did you mean `region`?",
            ),
            (
                "defaults: {target: lb}\ntargets: {lab: {kind: amazon-ebs, endpoint: lab}}".into(),
                "kiln.yaml:1:20: error: defaults.target: there is no target `lb`; did you mean `lab`?",
            ),
            (
                "images:\n  a: {layer: app, from: b}\n  a: {layer: app, from: b}\n".into(),
                "kiln.yaml:3:3: error: a: the key stands twice in one mapping",
            ),
            ("images: [".into(), "kiln.yaml:"),
        ];
        for (text, expected) in cases {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}\n  gives\n{error}\n  and not\n{expected}");
            assert!(error.contains("\n "), "no excerpt: {error}");
        }
    }

    #[test]
    fn a_password_beside_a_mistake_is_not_quoted() {
        for more in ["role: web", "kiln: {}"] {
            let error =
                load(&format!("images:\n  a: {{layer: app, from: a, user_data: {{{more}, password: tulip42}}}}\n"));
            let said = error.unwrap_err().to_string();
            assert!(said.contains("<secret>") && !said.contains("tulip42"), "{said}");
        }
        let unknown = load("images: {a: {layer: app, form: b, user_data: {chpasswd: {list: \"ann:tulip42\"}}}}");
        assert!(!unknown.unwrap_err().to_string().contains("tulip42"));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error =
            load("images:\n  a: {layer: app, from: b, tests: [x.bats]}\n  c: {layer: app, from: d}\n").unwrap_err();
        let Error::Findings(findings) = error else { panic!("{error}") };
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn a_name_that_is_not_there_is_answered_with_the_nearest_or_all() {
        let file =
            load(&format!("images: {{{GOLDEN}}}\ntargets: {{a: {{kind: amazon-ebs}}, b: {{kind: amazon-ebs}}}}"))
                .unwrap();
        let said = |error: Error| error.to_string();
        assert_eq!(said(file.image("goldn").unwrap_err()), "kiln.yaml has no image `goldn`; did you mean `golden`?");
        assert_eq!(said(file.image("zebra").unwrap_err()), "kiln.yaml has no image `zebra`; it has golden");
        assert!(said(file.target(None).unwrap_err()).contains("several targets (a, b): choose one with --target"));
        let none = load(&format!("images: {{{GOLDEN}}}")).unwrap();
        assert!(said(none.target(None).unwrap_err()).contains("has no `targets`"));
        assert_eq!(said(none.target(Some("x")).unwrap_err()), "kiln.yaml has no target `x`; it has none at all");
    }

    #[test]
    fn a_missing_file_says_how_to_name_one() {
        let error = super::load(Path::new("/nowhere/kiln.yaml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no /nowhere/kiln.yaml: go to the folder that has it, or name it with -f"
        );
    }
}
