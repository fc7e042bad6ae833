//! Files of kiln.yaml with and without mistakes.

use super::*;
use crate::images::{Endpoint, From, Layer};

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
         ssh_username: debian, gate_timeout: 1h30m, bake_timeout: 3h, instance_type: t4g.large, prove: no}\n\
         images:\n  app:\n    layer: app\n    from: golden\n    role: web\n    version: 1.10\n    build: 007\n    \
         release: \"12\"\n    provision: golden.sh\n    files: [{source: puppet, destination: /etc/p}]\n    \
         tests: [app.bats]\n    gate_timeout: 90s\n    bake_timeout: 2h\n    prove: yes\n    seal: {skip: {mail: \"a mail server\"}, permit: {/opt/app/*.pem: tests}}\n    user_data: {write_files: [{path: /x, permissions: 0644}]}\n  \
         golden: {layer: golden, from: {ami: {owners: [self], name: \"debian-*\"}}}\n\
         targets:\n  here: {kind: amazon-ebs, endpoint: lab, packer: {plugin_path: plugins}}\n  there: {kind: amazon-ebs, region: us-east-1}\n  \
         wide: {kind: amazon-ebs, regions: [eu-west-1, us-gov-east-1], share_with: 111122223333, \
         encrypt: {eu-west-1: alias/ours}, deprecate_after: 90d}\n  \
         else: {kind: amazon-ebs, endpoint: \"http://127.0.0.1:5000\"}\n",
    )
    .unwrap();
    let app = file.image("app").unwrap();
    assert_eq!((app.version.as_str(), app.build.as_str()), ("1.10", "007"), "a version is text, as spelled");
    assert_eq!((app.layer, app.arch, &app.from), (Layer::App, Arch::Arm64, &From::Image("golden".to_owned())));
    assert_eq!((app.provision[0].given.as_str(), app.gate_timeout.as_secs()), ("golden.sh", 90));
    assert_eq!((app.prove, app.seal.skip["mail"].as_str()), (true, "a mail server"));
    assert!(!file.image("golden").unwrap().prove, "the default");
    assert_eq!(file.image("golden").unwrap().gate_timeout.as_secs(), 5400);
    assert_eq!(["app", "golden"].map(|name| file.image(name).unwrap().bake_timeout.unwrap().as_secs() / 3600), [2, 3]);
    assert!(file.target(None).unwrap().plugin_path.as_ref().unwrap().ends_with("plugins"), "beside kiln.yaml");
    assert_eq!(file.target(Some("there")).unwrap().plugin_path, None);
    assert_eq!(file.target(None).unwrap().endpoint, Endpoint::Lab);
    assert_eq!(file.target(Some("there")).unwrap().region.as_deref(), Some("us-east-1"));
    assert_eq!(file.target(Some("else")).unwrap().region.as_deref(), Some("eu-west-1"), "the default");
    assert!(file.target(Some("else")).unwrap().distribution.is_nothing());
    let wide = file.target(Some("wide")).unwrap();
    assert_eq!(wide.region.as_deref(), Some("eu-west-1"), "the first is where it is baked");
    assert_eq!(wide.distribution.copies, ["us-gov-east-1"]);
    assert_eq!(wide.distribution.share_with, ["111122223333"], "as spelled");
    assert_eq!(wide.distribution.keys["eu-west-1"], "alias/ours");
    assert_eq!(wide.distribution.deprecate_after.map(|span| span.as_secs()), Some(90 * 86400));
    assert_eq!(file.target(Some("else")).unwrap().endpoint, Endpoint::Url("http://127.0.0.1:5000".to_owned()));
}

#[test]
fn every_mistake_is_answered_at_its_place() {
    let app = |keys: &str| format!("images:\n  {GOLDEN}\n  app:\n    layer: app\n    from: golden\n    {keys}\n");
    let target = |keys: &str| format!("targets: {{t: {{kind: amazon-ebs, {keys}}}}}");
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
        (
            app("store: instance"),
            "kiln.yaml:6:12: error: images.app.store: unknown value; expected one of ebs, instance-store",
        ),
        (
            app("store: [ebs, instance-store]"),
            "images.app.from: golden is not made on instance-store: add instance-store to its `store`",
        ),
        (
            app("store: instance-store\n    arch: arm64"),
            "images.app.store: no instance of arm64 has its root on an instance store: give app the `arch` x86_64 alone",
        ),
        (
            "targets: {t: {kind: amazon-ebs, s3_bucket: b}}".into(),
            "kiln.yaml:1:44: error: targets.t.s3_bucket: only a target of the kind amazon-instance has this key",
        ),
        (
            "targets: {t: {kind: amazon-instance, s3_bucket: b, account_id: 1, x509_cert_path: golden.sh, x509_key_path: k}}".into(),
            "targets.t: the key `iam_instance_profile` is missing, which a target of the kind amazon-instance needs",
        ),
        (
            "targets: {t: {kind: amazon-instance, s3_bucket: b, account_id: 1, x509_cert_path: golden.sh, x509_key_path: k}}".into(),
            "targets.t.account_id: `1` is no account: write its 12 digits in quotes",
        ),
        (
            "targets: {t: {kind: amazon-instance, s3_bucket: b, account_id: 1, x509_cert_path: golden.sh, x509_key_path: k}}".into(),
            "targets.t.x509_key_path: there is no file or folder `k` beside kiln.yaml",
        ),
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
        (
            app("checks: [{prt: 22}]"),
            "kiln.yaml:6:15: error: images.app.checks[0].prt: unknown key; did you mean `port`?",
        ),
        (
            app("checks: [{within: 30s}]"),
            "kiln.yaml:6:14: error: images.app.checks[0]: nothing to check; name one of mount, package, service, port, http, file, user, sysctl, no_failed_units",
        ),
        (
            app("checks: [{port: 22, file: /x}]"),
            "kiln.yaml:6:25: error: images.app.checks[0].file: a check is of one thing, and this one is of `port` already: give `file` an entry of its own",
        ),
        (
            app("checks: [{port: 22, version: 1}]"),
            "kiln.yaml:6:25: error: images.app.checks[0].version: this key is not one of `port`; there are protocol, address, within",
        ),
        (app("checks: [{port: 70000}]"), "kiln.yaml:6:21: error: images.app.checks[0].port"),
        (app("checks: [{port: 0}]"), "kiln.yaml:6:21: error: images.app.checks[0].port: 0 is no port"),
        (
            app("checks: [{port: 1, protocol: sctp}]"),
            "images.app.checks[0].protocol: unknown value; expected one of tcp, udp",
        ),
        (app("checks: [{port: 1, address: all}]"), "images.app.checks[0].address: `all` is no IP address"),
        (app("checks: [{port: 1, within: 0s}]"), "images.app.checks[0].within: no time at all"),
        (app("checks: [{mount: data}]"), "images.app.checks[0].mount: `data` is not an absolute path"),
        (app("checks: [{file: a}]"), "images.app.checks[0].file: `a` is not an absolute path"),
        (app("checks: [{file: /a, mode: rw}]"), "images.app.checks[0].mode: not a file mode"),
        (
            app("checks: [{file: /a, exists: no, mode: 0644}]"),
            "images.app.checks[0].mode: a file that is not there has no such thing",
        ),
        (app("checks: [{package: \"\"}]"), "images.app.checks[0].package: `` is no name"),
        (app("checks: [{package: a, installed: no, version: 1}]"), "a package that is not there has no version"),
        (app("checks: [{service: \"a b\"}]"), "images.app.checks[0].service: `a b` is no name"),
        (app("checks: [{http: localhost}]"), "images.app.checks[0].http: `localhost` is no address"),
        (app("checks: [{http: 'http://a/', status: 42}]"), "images.app.checks[0].status: 42 is no status of HTTP"),
        (app("checks: [{user: a, exists: no, groups: [b]}]"), "a user who is not there has no groups"),
        (app("checks: [{sysctl: a.b}]"), "images.app.checks[0].sysctl: the key `value` is missing"),
        (app("checks: [{no_failed_units: no}]"), "images.app.checks[0].no_failed_units: it can only be true"),
        (app("checks: [22]"), "images.app.checks[0]: expected a mapping"),
        (app("user_data: [a]"), "kiln.yaml:6:16: error: images.app.user_data: expected a mapping, found a list"),
        (
            app("user_data: {kiln: {strict: false}}"),
            "kiln.yaml:6:24: error: images.app.user_data.kiln.strict: the bake sets this key itself; `tests` alone may stand here",
        ),
        (
            app("user_data: {role: web}"),
            "kiln.yaml:6:17: error: images.app.user_data.role: write `role` beside `user_data`",
        ),
        (
            app("seal: {skip: {shel-history: \"why\"}}"),
            "kiln.yaml:6:33: error: images.app.seal.skip.shel-history: there is no entry of the seal's checklist `shel-history`; did you mean `shell-history`?",
        ),
        (
            app("seal: {skip: {mail: \" \"}}"),
            "kiln.yaml:6:25: error: images.app.seal.skip.mail: say why in one line: the reason is recorded on the image",
        ),
        (app("seal: {skip: {mail: }}"), "images.app.seal.skip.mail: "),
        (app("seal: {skip: [mail]}"), "images.app.seal.skip: expected a mapping, found a list"),
        (
            app(&format!("seal: {{skip: {{mail: {}}}}}", "long ".repeat(60))),
            "images.app.seal: with its reasons this is 305 characters, and a tag takes 256: shorten the reasons",
        ),
        (
            app("seal: {permit: {opt/key.pem: why}}"),
            "kiln.yaml:6:34: error: images.app.seal.permit.opt/key.pem: `opt/key.pem` is no absolute path without blanks",
        ),
        (app("seal: {permit: {/opt/key.pem: \"\"}}"), "images.app.seal.permit./opt/key.pem: say why in one line"),
        (app("seal: {skp: {mail: x}}"), "images.app.seal.skp: unknown key; did you mean `skip`?"),
        (app("prove: maybe"), "images.app.prove: "),
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
        ("images: {a: {layer: app, from: {}}}".into(), "images.a.from: the key `ami` or `ssm` is missing"),
        (
            "images: {a: {layer: app, from: {ssm: /a, ami: {name: x}}}}".into(),
            "images.a.from: either `ami` or `ssm`, not both",
        ),
        (
            "images: {a: {layer: app, from: {owners: [self], ami: {name: x}}}}".into(),
            "images.a.from: `owners` belongs into `ami`, beside `name`",
        ),
        (
            "images: {a: {layer: app, from: {ssm: /aws/service/x}}}".into(),
            "kiln.yaml:1:32: error: images.a.from: the key `owners` is missing: list the accounts you trust",
        ),
        (
            "images: {a: {layer: app, from: {ssm: /x, owners: [debian]}}}".into(),
            "kiln.yaml:1:51: error: images.a.from.owners[0]: `debian` is no account",
        ),
        (
            "images: {a: {layer: app, from: {ssm: \"/x/{arc}\", owners: [self]}}}".into(),
            "kiln.yaml:1:38: error: images.a.from.ssm: only `{arch}` (x86_64 or arm64) and `{deb_arch}`",
        ),
        (
            "images: {a: {layer: app, from: {ami: {owners: [self], name: x, tags: {k: \"{v}\"}}}}}".into(),
            "images.a.from.ami.tags.k: only `{arch}`",
        ),
        (app("arch: [x86_64, x86_64]"), "kiln.yaml:6:20: error: images.app.arch[1]: `x86_64` stands here twice"),
        (app("arch: []"), "kiln.yaml:6:11: error: images.app.arch: an empty list: name at least one"),
        (
            app("arch: [x86_64, arm64]"),
            "kiln.yaml:5:11: error: images.app.from: golden is not made for arm64: add arm64 to its `arch`",
        ),
        (
            format!("defaults: {{arch: [x86_64, arm64], instance_type: t3.large}}\nimages: {{{GOLDEN}}}"),
            "kiln.yaml:1:50: error: defaults.instance_type: no type has all processors of golden: write one for each",
        ),
        (app("instance_type: {sparc: t3.large}"), "images.app.instance_type.sparc: unknown key"),
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
        ("targets: {t: {kind: qemu}}".into(), "targets.t.kind: unknown value; expected one of amazon-ebs, amazon-instance"),
        (
            "targets: {t: {kind: amazon-ebs, endpoint: labs}}".into(),
            "kiln.yaml:1:43: error: targets.t.endpoint: neither `lab` nor an address that begins with http:// or https://",
        ),
        (
            target("regins: [eu-west-1]"),
            "kiln.yaml:1:33: error: targets.t.regins: unknown key; did you mean `regions`?",
        ),
        (
            target("regions: [eu-west-1, east]"),
            "kiln.yaml:1:54: error: targets.t.regions[1]: `east` is no region; they are written as eu-west-1",
        ),
        (target("regions: [us-east-1, us-east-1]"), "targets.t.regions[1]: `us-east-1` stands twice"),
        (
            target("region: us-east-1, regions: [us-east-1]"),
            "targets.t.regions: `region` stands beside it: name that region first here",
        ),
        (
            target("share_with: [friends]"),
            "targets.t.share_with[0]: `friends` is no account: write its 12 digits in quotes",
        ),
        (
            target("regions: [us-east-1], encrypt: {eu-west-1: k}"),
            "targets.t.encrypt.eu-west-1: no image of this target is in `eu-west-1`",
        ),
        (target("region: us-east-1, encrypt: {us-east-1: ''}"), "targets.t.encrypt.us-east-1: the key is empty"),
        (
            target("region: us-east-1, encrypt: {us-east-1: alias/aws/ebs}, share_with: ['111122223333']"),
            "targets.t.encrypt.us-east-1: what is encrypted with alias/aws/ebs cannot be shared",
        ),
        (
            "targets: {t: {kind: amazon-instance, region: us-east-1, encrypt: {us-east-1: alias/ours}}}".into(),
            "targets.t.encrypt: images on an instance store cannot be encrypted with a key",
        ),
        (target("deprecate_after: 90"), "targets.t.deprecate_after: `90` has no unit"),
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
        let error = load(&format!("images:\n  a: {{layer: app, from: a, user_data: {{{more}, password: tulip42}}}}\n"));
        let said = error.unwrap_err().to_string();
        assert!(said.contains("<secret>") && !said.contains("tulip42"), "{said}");
    }
    // Where nobody can tell what is a value, no line is quoted.
    for mistake in ["user_data: {password: tulip42, a: [}", "user_data:\n      chpasswd: {list: \"ann:tulip42}"] {
        let said = load(&format!("images:\n  a:\n    {mistake}\n")).unwrap_err().to_string();
        assert!(said.starts_with("kiln.yaml:") && said.contains("not valid YAML"), "{said}");
        assert!(!said.contains("tulip42"), "{said}");
    }
    let unknown = load("images: {a: {layer: app, form: b, user_data: {chpasswd: {list: \"ann:tulip42\"}}}}");
    assert!(!unknown.unwrap_err().to_string().contains("tulip42"));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = load("images:\n  a: {layer: app, from: b, tests: [x.bats]}\n  c: {layer: app, from: d}\n").unwrap_err();
    let Error::Findings(findings) = error else { panic!("{error}") };
    assert_eq!(findings.len(), 3, "{findings:?}");
}

#[test]
fn a_name_that_is_not_there_is_answered_with_the_nearest_or_all() {
    let file =
        load(&format!("images: {{{GOLDEN}}}\ntargets: {{a: {{kind: amazon-ebs}}, b: {{kind: amazon-ebs}}}}")).unwrap();
    let said = |error: Error| error.to_string();
    assert_eq!(said(file.image("goldn").unwrap_err()), "kiln.yaml has no image `goldn`; did you mean `golden`?");
    assert_eq!(said(file.image("zebra").unwrap_err()), "kiln.yaml has no image `zebra`; it has golden");
    assert!(said(file.target(None).unwrap_err()).contains("several targets (a, b): choose one with --target"));
    let none = load(&format!("images: {{{GOLDEN}}}")).unwrap();
    assert!(said(none.target(None).unwrap_err()).contains("has no `targets`"));
    assert_eq!(said(none.target(Some("x")).unwrap_err()), "kiln.yaml has no target `x`; it has none at all");
}

#[test]
fn each_processor_is_a_variant_with_a_base_and_an_instance_of_its_own() {
    let file = load(
        "defaults: {arch: [x86_64, arm64]}\nimages:\n  golden: {layer: golden, instance_type: {arm64: t4g.large}, from: \
         {ssm: \"/d/12/{deb_arch}/{arch}\", owners: [self]}}\n  app: {layer: app, from: golden}\n  tool: {layer: app, \
         from: golden, arch: arm64}\n",
    )
    .unwrap();
    let labels: Vec<_> = file.images().map(|recipe| recipe.label.as_str()).collect();
    assert_eq!(labels, ["golden:x86_64", "golden:arm64", "app:x86_64", "app:arm64", "tool"]);
    let chosen = |name: &str| -> Vec<String> {
        file.variants(name).unwrap().iter().map(|recipe| recipe.label.clone()).collect()
    };
    assert_eq!(chosen("golden"), ["golden:x86_64", "golden:arm64"]);
    assert_eq!((chosen("golden:arm64:ebs"), chosen("tool:arm64")), (vec!["golden:arm64".into()], vec!["tool".into()]));
    let golden = ["golden:x86_64", "golden:arm64"].map(|name| file.image(name).unwrap());
    let parameters = golden.map(|recipe| match &recipe.from {
        From::Ssm(parameter) => parameter.name.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(parameters, ["/d/12/amd64/x86_64", "/d/12/arm64/arm64"]);
    assert_eq!(golden.map(|recipe| recipe.instance_type.as_deref()), [None, Some("t4g.large")]);
    let said = |name: &str| file.image(name).unwrap_err().to_string();
    assert_eq!(said("app"), "app has several variants: choose one of app:x86_64, app:arm64");
    assert_eq!(said("app:arm65"), "kiln.yaml has no variant `app:arm65`; did you mean `app:arm64`?");
    assert_eq!(said("tool:x86_64"), "kiln.yaml has no variant `tool:x86_64`; it has tool");
    assert_eq!(said("ap:arm64"), "kiln.yaml has no image `ap`; did you mean `app`?");
}

#[test]
fn each_store_is_a_variant_for_the_target_that_makes_it() {
    let file = load(&format!(
        "defaults: {{store: [ebs, instance-store]}}\nimages: {{{GOLDEN}, plain: {{layer: app, from: golden, store: \
         ebs}}}}\ntargets:\n  e: {{kind: amazon-ebs}}\n  s3: {{kind: amazon-instance, account_id: \"123456789012\", \
         s3_bucket: b, x509_cert_path: app.bats, x509_key_path: golden.sh, iam_instance_profile: p}}\n"
    ))
    .unwrap();
    let labels = |target: &str| -> Vec<String> {
        let at = file.images_at(file.target(Some(target)).unwrap());
        at.map(|recipe| recipe.label.clone()).collect()
    };
    assert_eq!(labels("e"), ["golden:ebs", "plain"]);
    assert_eq!(labels("s3"), ["golden:instance-store"]);
    let s3 = file.target(Some("s3")).unwrap();
    let chosen = file.variants_at(&["golden".to_owned()], s3).unwrap();
    assert_eq!((chosen.len(), chosen[0].store.name()), (1, "instance-store"));
    assert_eq!(
        file.variants_at(&["plain".to_owned()], s3).unwrap_err().to_string(),
        "plain is not made on instance-store, and that is what the target s3 makes: choose another with --target, or \
         add instance-store to the `store` of the image"
    );
}

#[test]
fn what_is_wrong_with_a_default_is_told_once() {
    let error = load(&format!("defaults: {{arch: []}}\nimages: {{{GOLDEN}, {}}}", GOLDEN.replace("golden:", "other:")));
    let Error::Findings(findings) = error.unwrap_err() else { panic!() };
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let error = super::load(Path::new("/nowhere/kiln.yaml")).unwrap_err();
    assert_eq!(error.to_string(), "there is no /nowhere/kiln.yaml: go to the folder that has it, or name it with -f");
}
