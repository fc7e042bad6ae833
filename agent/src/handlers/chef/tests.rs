use std::os::unix::fs::MetadataExt;

use super::*;
use crate::handlers::Entry;
use crate::net::testing::{Server, answer};
use crate::testing;

const NEEDED: &str = "server_url: 'https://chef.example:4000', validation_name: org-validator";
const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\\nhunter2\\n";

/// A machine on which every package is there, and Chef too.
fn machine(tree: &std::path::Path, user_data: &str) -> Option<Context> {
    let context = testing::machine(tree, &["/usr/bin/dash"], user_data)?;
    for (name, script) in [
        ("apt-get", "exit 100"),
        ("dpkg-query", "echo \"query $*\" >> /said; echo installed 1"),
        ("gem", "echo \"gem $*\" >> /said"),
        ("chef-client", "echo \"chef $*\" >> /said; case $* in *bad*) echo 'FATAL: no such role'; exit 1;; esac"),
    ] {
        let script = format!("#!/usr/bin/dash\n{script}\n");
        testing::executable(&context.system, format!("/usr/bin/{name}"), script);
    }
    Some(context)
}

fn mode(context: &Context, path: &str) -> u32 {
    context.system.metadata(path).unwrap().mode() & 0o777
}

#[test]
fn the_settings_have_cloud_inits_defaults_and_keys_are_for_root() {
    let tree = tempfile::tempdir().unwrap();
    let keys = format!("{NEEDED}, validation_cert: \"{PEM}\", client_key: \"{PEM}\", chef_license: accept");
    let user_data =
        format!("chef: {{{keys}, run_list: ['role[db]'], initial_attributes: {{a: {{b: 'off', c: 100}}}}}}");
    let Some(mut context) = machine(tree.path(), &user_data) else { return };
    let outcome = context.run_handler::<Chef>().unwrap();
    let changed = json!(["/etc/chef/client.rb", "/etc/chef/firstboot.json"]);
    assert_eq!(outcome, Outcome::Ok(Some(json!({"changed": changed, "installed": false, "ran": false}))));
    let expected = "# Written by kiln-agent
chef_license           \"accept\"
log_level              :info
ssl_verify_mode        :verify_none
log_location           \"/var/log/chef/client.log\"
validation_client_name \"org-validator\"
validation_key         \"/etc/chef/validation.pem\"
client_key             \"/etc/chef/client.pem\"
chef_server_url        \"https://chef.example:4000\"
environment            \"_default\"
node_name              \"i-test\"
json_attribs           \"/etc/chef/firstboot.json\"
file_cache_path        \"/var/chef/cache\"
file_backup_path       \"/var/chef/backup\"
pid_file               \"/var/run/chef/client.pid\"
Chef::Log::Formatter.show_time = true
";
    assert_eq!(context.system.read_text("/etc/chef/client.rb").unwrap(), expected);
    let first = context.system.read_text("/etc/chef/firstboot.json").unwrap();
    assert_eq!(first, "{\"run_list\":[\"role[db]\"],\"a\":{\"b\":\"off\",\"c\":100}}");
    for path in ["/etc/chef/validation.pem", "/etc/chef/client.pem"] {
        assert!(context.system.read_text(path).unwrap().contains("hunter2"));
        assert_eq!(mode(&context, path), 0o600, "{path}");
    }
    assert!(context.system.exists("/var/chef/backup") && context.system.exists("/var/run/chef"));
    let again = context.run_handler::<Chef>().unwrap();
    assert!(matches!(again, Outcome::Ok(Some(detail)) if detail["changed"] == json!([])));
}

#[test]
fn given_values_take_the_place_of_defaults_and_empty_ones_leave_their_line_out() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = format!(
        "chef: {{{NEEDED}, validation_key: /k/v.pem, validation_cert: system, log_level: ':auto', pid_file: '', show_time: no, \
        config_path: /k/client.rb, firstboot_path: '', directories: [/k], node_name: n, encrypted_data_bag_secret: /k/s, \
        initial_attributes: {{db_password: hunter2}}}}"
    );
    let Some(mut context) = machine(tree.path(), &user_data) else { return };
    let failure = context.run_handler::<Chef>().unwrap_err();
    assert_eq!(
        failure.message,
        "chef.validation_cert: it is `system`, and there is no /k/v.pem; put it into the image"
    );
    let text = context.system.read_text("/k/client.rb").unwrap();
    for line in
        ["validation_key         \"/k/v.pem\"", "log_level              :auto", "encrypted_data_bag_secret \"/k/s\""]
    {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("pid_file") && !text.contains("show_time"), "{text}");
    assert!(!context.system.exists("/etc/chef/firstboot.json") && !context.system.exists("/var/chef"));
    let user_data = user_data.replace("firstboot_path: '', ", "");
    let Some(mut context) = machine(tree.path(), &user_data) else { return };
    context.system.write("/k/v.pem", "", FileOptions::mode(0o600)).unwrap();
    context.run_handler::<Chef>().unwrap();
    assert_eq!(mode(&context, "/etc/chef/firstboot.json"), 0o600);
}

#[test]
fn it_runs_where_it_is_asked_to_and_a_bad_run_is_told_and_keeps_the_key() {
    let tree = tempfile::tempdir().unwrap();
    let keys = format!("{NEEDED}, validation_cert: \"{PEM}\", exec: true, delete_validation_post_exec: true");
    for (arguments, said) in [("[--bad]", "chef --bad\n"), ("[-o, x]", "chef -o x\n")] {
        let user_data = format!("chef: {{{keys}, exec_arguments: {arguments}}}");
        let Some(mut context) = machine(tree.path(), &user_data) else { return };
        let outcome = context.run_handler::<Chef>();
        assert_eq!(context.system.read_text("/said").unwrap(), said);
        context.system.remove("/said").unwrap();
        let there = context.system.exists("/etc/chef/validation.pem");
        match outcome {
            Err(failure) => {
                assert_eq!(failure.message, "chef.exec: chef-client exited 1: FATAL: no such role");
                assert!(there);
            }
            Ok(_) => assert!(!there),
        }
    }
    let Some(mut context) = machine(tree.path(), &format!("chef: {{{keys}}}")) else { return };
    context.run_handler::<Chef>().unwrap();
    assert_eq!(context.system.read_text("/said").unwrap(), "chef -d -i 1800 -s 20\n");
    let Some(mut context) = machine(tree.path(), "chef: {exec: true, run_list: [x]}") else { return };
    let failure = context.run_handler::<Chef>().unwrap_err();
    assert_eq!(failure.message, "chef.server_url: chef needs `server_url` and `validation_name`; give both");
    assert_eq!(failure.detail.unwrap()["ran"], false);
}

#[test]
fn gems_need_ruby_and_run_it_by_themselves() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = format!("chef: {{{NEEDED}, install_type: gems, force_install: true, version: 18.4.12}}");
    let Some(mut context) = machine(tree.path(), &user_data) else { return };
    let outcome = context.run_handler::<Chef>().unwrap();
    assert!(matches!(outcome, Outcome::Ok(Some(detail)) if detail["ran"] == true && detail["installed"] == true));
    let said = context.system.read_text("/said").unwrap();
    assert!(said.contains("-- ruby\n") && said.contains("-- ruby-dev\n"), "{said}");
    let gem = "gem install chef -v 18.4.12 --no-document --bindir /usr/bin -q\nchef -d -i 1800 -s 20\n";
    assert!(said.ends_with(gem), "{said}");
}

#[test]
fn the_script_of_omnibus_is_got_and_run_with_its_version_and_does_not_stay() {
    let tree = tempfile::tempdir().unwrap();
    let script =
        "#!/usr/bin/dash\necho \"install $*\" >> /said\ncase $* in *9*) echo no such version >&2; exit 4;; esac\n";
    for (version, failed) in [("18", false), ("9", true)] {
        let server = Server::start(move |_, _| answer(200, script));
        let user_data = format!(
            "chef: {{{NEEDED}, install_type: omnibus, force_install: true, omnibus_url: '{}', omnibus_version: {version}}}",
            server.url("/install.sh")
        );
        let Some(mut context) = machine(tree.path(), &user_data) else { return };
        let outcome = context.run_handler::<Chef>();
        assert!(context.system.read_text("/said").unwrap().ends_with(&format!("install -v {version}\n")));
        assert_eq!(outcome.is_err(), failed);
        if let Err(failure) = outcome {
            let expected = "chef.install_type: the script of omnibus_url exited 4: no such version";
            assert_eq!(failure.message, expected);
        }
        assert!(!context.system.exists("/var/lib/kiln/instances/i-test/chef-omnibus-install"));
    }
}

#[test]
fn a_word_that_is_none_is_told_and_without_the_key_nothing_happens() {
    let tree = tempfile::tempdir().unwrap();
    let mut context =
        Context::for_test(tree.path(), &format!("chef: {{{NEEDED}, install_type: gem, node_name: \"a\\nb\"}}"));
    let failure = context.run_handler::<Chef>().unwrap_err();
    assert_eq!(
        failure.message,
        "chef.server_url: node_name has a quote or a line's end in it; correct it; \
         chef.install_type: this is none of packages, gems, omnibus"
    );
    let told = Entry::of::<Chef>().prepare(&context.config).diagnostics;
    assert_eq!((told.len(), told[0].path.as_str()), (1, "chef.install_type"));
    assert_eq!(told[0].suggestion.as_deref(), Some("gems"));
    let user_data =
        "chef: {directories: [], run_list: 1, initial_attributes: x, environment: 7, exec: true, unknown: 8}";
    let context = Context::for_test(tree.path(), user_data);
    let told = Entry::of::<Chef>().prepare(&context.config).diagnostics;
    let paths: Vec<_> = told.iter().map(|finding| finding.path.as_str()).collect();
    let expected = [
        "chef.run_list",
        "chef.run_list",
        "chef.environment",
        "chef.unknown",
        "chef.environment",
        "chef.initial_attributes",
    ];
    assert_eq!(paths, expected);
    let mut context = Context::for_test(tree.path(), "chef:");
    assert!(matches!(context.run_handler::<Chef>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
}

#[test]
fn a_validation_key_that_was_deleted_is_not_written_again_where_the_client_has_its_own() {
    let tree = tempfile::tempdir().unwrap();
    let keys = format!("{NEEDED}, validation_cert: \"{PEM}\", delete_validation_post_exec: true");
    let user_data = format!("chef: {{{keys}, install_type: gems}}");
    let Some(mut context) = machine(tree.path(), &user_data) else { return };
    context.system.remove("/usr/bin/chef-client").unwrap();
    // What gem installs registers the node, as Chef does: it has a key of its own from then on.
    let client = "#!/usr/bin/dash\n[ -e /etc/chef/validation.pem ] || exit 4\necho key > /etc/chef/client.pem\n";
    testing::executable(&context.system, "/client", client);
    let tools = testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/ln"], "{}");
    if tools.is_none() {
        return;
    }
    let gem = "#!/usr/bin/dash\n/usr/bin/ln -s /client /usr/bin/chef-client\n";
    testing::executable(&context.system, "/usr/bin/gem", gem);
    let ran = |outcome: Outcome| matches!(outcome, Outcome::Ok(Some(detail)) if detail["ran"] == true);
    assert!(ran(context.run_handler::<Chef>().unwrap()));
    assert!(!context.system.exists("/etc/chef/validation.pem"));
    let settings = context.system.read_text("/etc/chef/client.rb").unwrap();
    assert!(!ran(context.run_handler::<Chef>().unwrap()), "Chef is there by now, and nobody asked for a run");
    assert!(!context.system.exists("/etc/chef/validation.pem"));
    assert_eq!(context.system.read_text("/etc/chef/client.rb").unwrap(), settings);
}
