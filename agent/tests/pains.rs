//! What hurts cloud-init's users most, each as a test of the real program that this agent passes.
//!
//! CONTRIBUTING lists them with their numbers. Those that need a booted machine are among the end-to-end
//! tests, under names that begin alike.

#![allow(clippy::disallowed_methods, reason = "the test prepares a tree and runs the real program on it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

#[path = "../../tests/src/apart.rs"]
mod apart;

/// A tree with a shell, as an instance before its first boot.
struct Instance {
    tree: TempDir,
}

impl Instance {
    fn new(user_data: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "commands run under chroot(2): run this test as root, or say --skip");
        let instance = Instance { tree: tempfile::tempdir().unwrap() };
        let root = instance.root();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["bin", "dev", "tmp", "etc", "root"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        instance.program("/bin/busybox", &["/bin/busybox", "/usr/bin/busybox"]);
        for applet in ["sh", "cat", "echo", "false", "true", "sleep"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
        nix::sys::stat::mknod(&root.join("dev/null"), kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
        instance.write("/etc/os-release", "ID=debian\n");
        instance.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        instance.write("/etc/group", "root:x:0:\nadm:x:4:\n");
        instance.is_instance("i-1", user_data);
        instance.reboot("boot-1");
        instance
    }

    fn root(&self) -> &Path {
        self.tree.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(&path[1..])).unwrap()
    }

    /// Puts a program of this machine into the tree, with the libraries that it loads.
    fn program(&self, at: &str, candidates: &[&str]) {
        let found = candidates.iter().find(|path| Path::new(path).exists());
        let found = found.unwrap_or_else(|| panic!("install one of {candidates:?}"));
        let listed = Command::new("ldd").arg(found).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        for (from, to) in libraries.map(|path| (path, path)).chain([(*found, at)]) {
            let target = self.root().join(&to[1..]);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            apart::copy(Path::new(from), &target);
        }
    }

    fn is_instance(&self, id: &str, user_data: &str) {
        self.write("/var/lib/kiln/seed/nocloud/meta-data", &format!("instance-id: {id}\n"));
        self.write("/var/lib/kiln/seed/nocloud/user-data", user_data);
    }

    fn reboot(&self, boot_id: &str) {
        self.write("/proc/sys/kernel/random/boot_id", &format!("{boot_id}\n"));
        let _ = fs::remove_dir_all(self.root().join("run/kiln"));
    }

    fn agent(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-agent"));
        command.arg("--root").arg(self.root()).args(args).env_clear().env("PATH", "/usr/bin:/bin").output().unwrap()
    }

    /// Boots; the exit code and the status.
    fn boot(&self) -> (i32, Json) {
        let code = self.agent(&["boot"]).status.code().unwrap();
        (code, serde_json::from_str(&self.read("/run/kiln/status.json")).unwrap())
    }
}

fn handler<'a>(status: &'a Json, name: &str) -> &'a Json {
    let found = status["handlers"].as_array().unwrap().iter().find(|handler| handler["name"] == name);
    found.unwrap_or_else(|| panic!("{name} did not run: {status}"))
}

#[test]
fn pain_2_a_failed_command_is_not_hidden_by_the_ones_after_it() {
    let instance = Instance::new("#cloud-config\nruncmd:\n- [sh, -c, 'echo lost >&2; exit 7']\n- 'true'\n");
    let (code, status) = instance.boot();
    assert_eq!((code, &status["state"]), (1, &"failed".into()));
    let commands = &handler(&status, "runcmd")["detail"]["commands"];
    assert_eq!((&commands[0]["exit_code"], &commands[1]["exit_code"]), (&7.into(), &0.into()), "{commands}");
    assert!(commands[0].to_string().contains("lost") && commands[0]["duration_ms"].is_number(), "{commands}");
}

#[test]
fn pain_3_a_reboot_launders_no_failure() {
    let instance = Instance::new("#cloud-config\nruncmd: ['false']\n");
    assert_eq!(instance.boot().0, 1);
    for boot in ["boot-2", "boot-3"] {
        instance.reboot(boot);
        let (code, status) = instance.boot();
        assert_eq!((code, &status["state"]), (1, &"failed".into()));
        assert!(handler(&status, "runcmd")["message"].as_str().unwrap().contains("at an earlier boot"));
    }
}

#[test]
fn pain_4_a_failed_script_is_told_with_its_exit_code_and_its_last_words() {
    let instance = Instance::new("#!/bin/sh\necho the disk is full >&2\nexit 3\n");
    let (_, status) = instance.boot();
    let failure = handler(&status, "scripts")["message"].as_str().unwrap();
    for part in ["exited 3", "the disk is full"] {
        assert!(failure.contains(part), "{failure}");
    }
}

#[test]
fn pain_5_waiting_for_the_status_ends_and_tells_what_never_started() {
    let instance = Instance::new("#cloud-config\n{}\n");
    let begun = Instant::now();
    let waited = instance.agent(&["status", "--wait", "--timeout", "1s"]);
    assert_eq!(waited.status.code(), Some(6));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(instance.agent(&["status"]).status.code(), Some(4), "not started is a code of its own");
    instance.boot();
    assert_eq!(instance.agent(&["status", "--wait"]).status.code(), Some(0));
}

#[test]
fn pain_6_neither_an_old_spelling_nor_a_group_that_exists_changes_the_exit_code() {
    // `users` as a mapping and `apt_update` are deprecated, `adm` is there, `hostnam` is nobody's key.
    let instance = Instance::new("#cloud-config\ngroups: [adm]\nusers: []\npackage_update: false\nhostnam: x\n");
    let (code, status) = instance.boot();
    assert_eq!((code, &status["state"]), (0, &"done".into()), "{status}");
    assert!(status["diagnostics"].to_string().contains("unknown key"), "and yet it is told");
}

#[test]
fn pain_9_broken_yaml_is_an_error_with_its_line_and_the_rest_is_done() {
    let user_data = "Content-Type: multipart/mixed; boundary=XX\nMIME-Version: 1.0\n\n\
        --XX\nContent-Type: text/cloud-config\n\n#cloud-config\nwrite_files:\n- path: [/etc/a\n\n\
        --XX\nContent-Type: text/cloud-config\n\n#cloud-config\nwrite_files: [{path: /etc/good}]\n--XX--\n";
    let instance = Instance::new(user_data);
    let (code, status) = instance.boot();
    assert_eq!(code, 1);
    let finding = status["diagnostics"].as_array().unwrap().iter().find(|d| d["severity"] == "error").unwrap();
    assert!(finding["line"].as_u64().is_some() && finding["column"].as_u64().is_some(), "{finding}");
    assert!(instance.root().join("etc/good").exists());
}

#[test]
fn pain_10_findings_are_for_programs_and_name_what_was_meant() {
    let instance = Instance::new("");
    instance.write("/doc", "#cloud-config\nhostnam: web\nusers:\n- {name: ann, shel: /bin/sh}\n");
    let doc = instance.root().join("doc");
    let output = instance.agent(&["validate", "--format", "json", doc.to_str().unwrap()]);
    let told: Json = serde_json::from_slice(&output.stdout).unwrap();
    let finding = |path: &str| told["findings"].as_array().unwrap().iter().find(|f| f["path"] == path).cloned();
    let (first, second) = (finding("hostnam").unwrap(), finding("users[0].shel").unwrap());
    assert_eq!((&first["suggestion"], &first["line"]), (&"hostname".into(), &2.into()));
    assert_eq!((&second["suggestion"], &second["line"], &second["column"]), (&"shell".into(), &4.into(), &15.into()));
}

#[test]
fn pain_12_a_file_waits_for_its_owner() {
    // The owner comes with a later handler, here a command, as a package's user would.
    let user_data = "#cloud-config\nwrite_files: [{path: /etc/late, content: x, owner: 'late:late'}]\n\
        bootcmd: ['echo nothing yet']\nusers: []\n";
    let instance = Instance::new(user_data);
    instance.agent(&["boot", "--stage", "local"]);
    instance.agent(&["boot", "--stage", "init"]);
    assert!(!instance.root().join("etc/late").exists());
    instance.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nlate:x:4321:4322::/:/bin/sh\n");
    instance.write("/etc/group", "root:x:0:\nlate:x:4322:\n");
    let code = instance.agent(&["boot", "--stage", "final"]).status.code();
    let owner = fs::metadata(instance.root().join("etc/late")).map(|file| (file.uid(), file.gid())).unwrap();
    assert_eq!((code, owner), (Some(0), (4321, 4322)));
}

#[test]
fn pain_13_the_plan_tells_which_document_a_value_comes_from() {
    let instance = Instance::new("#cloud-config\nhostname: mine\n");
    instance.write("/etc/kiln/agent.yaml", "timezone: Etc/UTC\n");
    instance.write("/var/lib/kiln/seed/nocloud/vendor-data", "#cloud-config\nhostname: theirs\nruncmd: [echo hi]\n");
    instance.boot();
    let output = instance.agent(&["plan", "--format", "json"]);
    let plan = String::from_utf8(output.stdout).unwrap();
    for source in ["user-data", "vendor-data", "agent.yaml"] {
        assert!(plan.contains(source), "{source}: {plan}");
    }
}

#[test]
fn pain_14_a_new_instance_is_told_and_keeps_its_keys_where_that_is_asked_for() {
    let keep = "#cloud-config\nssh_deletekeys: false\nssh_genkeytypes: [ed25519]\n";
    let instance = Instance::new(keep);
    instance.program("/usr/bin/ssh-keygen", &["/usr/bin/ssh-keygen"]);
    instance.write("/etc/ssh/sshd_config", "");
    instance.boot();
    let key = instance.read("/etc/ssh/ssh_host_ed25519_key.pub");
    // The same instance after another boot, a new one that keeps, a new one that does not.
    instance.reboot("boot-2");
    instance.boot();
    assert_eq!(instance.read("/etc/ssh/ssh_host_ed25519_key.pub"), key);
    instance.is_instance("i-2", keep);
    instance.reboot("boot-3");
    let said = String::from_utf8(instance.agent(&["boot"]).stderr).unwrap();
    assert!(said.contains("i-2 is a new instance on this disk, which was i-1"), "{said}");
    assert_eq!(instance.read("/etc/ssh/ssh_host_ed25519_key.pub"), key);
    instance.is_instance("i-3", "#cloud-config\nssh_genkeytypes: [ed25519]\n");
    instance.reboot("boot-4");
    let user_data = instance.root().join("var/lib/kiln/seed/nocloud/user-data");
    let plan = String::from_utf8(instance.agent(&["plan", user_data.to_str().unwrap()]).stdout).unwrap();
    assert!(plan.contains("ssh_host_keys"), "what a new instance would do can be asked before it boots: {plan}");
    instance.boot();
    assert_ne!(instance.read("/etc/ssh/ssh_host_ed25519_key.pub"), key);
}
