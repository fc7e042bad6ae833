//! A stock Debian that is not booted: a tree that forgets what is written, in namespaces of its own, with the
//! packaged agent in it. Its tools are real, it has no network but its own, and no service runs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kiln_schema::{HandlerReport, Status};
use kiln_tests::{Answer, Ran, Request, Server, run};

use crate::empty_root::unpacked;

/// Makes the tree, tells the process that holds it, and holds it until standard input ends.
const HOLD: &str = r#"
set -eu
mkdir top machine
mount -t tmpfs -o mode=755 top top
mkdir top/upper top/work
mount -t overlay overlay -o "lowerdir=$FOUNDATION,upperdir=top/upper,workdir=top/work" machine
cp usr/bin/kiln-agent machine/usr/bin/
mount -t tmpfs run machine/run
mount -t tmpfs -o mode=755 dev machine/dev
for device in null zero full random urandom tty; do
    touch "machine/dev/$device"
    mount --bind "/dev/$device" "machine/dev/$device"
done
ln -s /proc/self/fd machine/dev/fd
ip link set lo up
# The number that others know this shell by: /proc is not yet its own.
holder=$(cut -d ' ' -f 4 /proc/self/stat)
mount -t proc proc machine/proc
mkdir -p machine/var/lib/cloud/seed/nocloud
echo "$holder"
exec chroot machine cat
"#;

/// The tree; gone with all that runs in it when the test is done.
pub struct Root {
    holder: Child,
    /// The process that holds the namespaces, as this machine numbers it.
    pid: String,
    /// Files of the test; the machine does not see them.
    pub folder: tempfile::TempDir,
}

impl Root {
    /// A fresh machine.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        unpacked(folder.path());
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", HOLD])
            .env("FOUNDATION", Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/foundation")))
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        assert!(!pid.is_empty(), "no tree was made: {:?}", holder.wait());
        Root { holder, pid: pid.trim().to_owned(), folder }
    }

    /// A command in the machine, as root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", program]);
        command
    }

    /// Runs a script in the machine.
    pub fn shell(&self, script: &str) -> Ran {
        run(self.command("sh").args(["-c", script]).stdin(Stdio::null()))
    }

    /// What a script prints that has to succeed.
    pub fn ask(&self, script: &str) -> String {
        let ran = self.shell(script);
        assert!(ran.ok(), "`{script}`: {ran:?}");
        ran.stdout.trim_end().to_owned()
    }

    /// Puts a file into the machine.
    pub fn put(&self, path: &str, content: &[u8]) {
        let script = format!("mkdir -p \"$(dirname '{path}')\" && cat >'{path}'");
        let mut child = self.command("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Gives the machine its user-data, as an instance that has not booted yet.
    pub fn seed(&self, instance: &str, user_data: &str) {
        let meta_data = format!("instance-id: {instance}\n");
        self.put("/var/lib/cloud/seed/nocloud/meta-data", meta_data.as_bytes());
        self.put("/var/lib/cloud/seed/nocloud/user-data", format!("#cloud-config\n{user_data}").as_bytes());
    }

    /// A whole boot with this user-data.
    pub fn boot(&self, instance: &str, user_data: &str) -> Status {
        self.seed(instance, user_data);
        // What an earlier boot left under /run is gone after it.
        let ran = self.shell("rm -rf /run/kiln; kiln-agent boot");
        assert!(ran.code == 0 || ran.code == 1, "{ran:?}");
        self.status()
    }

    /// The status file as it stands.
    pub fn status(&self) -> Status {
        serde_json::from_str(&self.ask("cat /run/kiln/status.json")).unwrap()
    }

    /// Serves in the machine's network, at `http://127.0.0.1/`.
    pub fn serve(&self, answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Server {
        Server::start_at(format!("/proc/{}/ns/net", self.pid).into(), "127.0.0.1:80", answer)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What a boot said of a handler.
pub fn handler<'a>(status: &'a Status, name: &str) -> &'a HandlerReport {
    let found = status.handlers.iter().find(|handler| handler.name == name);
    found.unwrap_or_else(|| panic!("{name} did not run: {status:?}"))
}

/// Its message, empty where it has none.
pub fn message<'a>(status: &'a Status, name: &str) -> &'a str {
    handler(status, name).message.as_deref().unwrap_or_default()
}
