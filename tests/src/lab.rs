//! The lab, its machines, and `kiln` on the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{ImageState, InstanceStateName, InstanceType, ShutdownBehavior};
use kiln_schema::Status;

/// How long a machine may take to do what a test waits for. Far above what it needs: a slow day is no failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// The lab that the cases run in.
pub struct Lab {
    /// Its address card.
    pub access: kiln_lab::Access,
    /// EC2 as it is reached from the host.
    pub ec2: aws_sdk_ec2::Client,
    /// Route53 as it is reached from the host.
    pub route53: aws_sdk_route53::Client,
    runtime: tokio::runtime::Runtime,
}

/// The lab of this test run.
///
/// # Panics
/// When none is up: `tests/e2e.sh` makes it.
pub fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let name = std::env::var("KILN_LAB").unwrap_or_else(|_| "default".to_owned());
        let access = kiln_lab::Access::load(&name).unwrap().expect("no lab is up: run tests/e2e.sh");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let config = runtime.block_on(
            aws_config::defaults(aws_config::BehaviorVersion::latest())
                .region(aws_config::Region::new(access.region.clone()))
                .endpoint_url(&access.host_endpoint)
                .credentials_provider(aws_sdk_ec2::config::Credentials::new("lab", "lab", None, None, "tests"))
                .load(),
        );
        let (ec2, route53) = (aws_sdk_ec2::Client::new(&config), aws_sdk_route53::Client::new(&config));
        Lab { access, ec2, route53, runtime }
    })
}

impl Lab {
    /// Runs a request to its end.
    pub fn block_on<F: Future>(&self, request: F) -> F::Output {
        self.runtime.block_on(request)
    }

    /// The golden image that `tests/e2e.sh` has baked.
    pub fn golden(&self) -> String {
        let found = kiln(&["-f", "packaging/demo/kiln.yaml", "latest", "golden"]);
        assert!(found.ok(), "{}", found.stderr);
        found.stdout.trim().to_owned()
    }

    /// Starts an instance of the golden image.
    pub fn launch(&self, user_data: &str) -> Machine {
        self.launch_image(&self.golden(), user_data)
    }

    /// Starts an instance of any image.
    pub fn launch_image(&self, image: &str, user_data: &str) -> Machine {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(user_data);
        let request = self.ec2.run_instances().image_id(image).min_count(1).max_count(1).user_data(encoded);
        let request =
            request.instance_type(InstanceType::T3Micro).instance_initiated_shutdown_behavior(ShutdownBehavior::Stop);
        let answer = self.block_on(request.send()).unwrap();
        Machine { id: answer.instances()[0].instance_id().unwrap().to_owned() }
    }

    /// The state of an instance at the API.
    pub fn state_of(&self, id: &str) -> InstanceStateName {
        let answer = self.block_on(self.ec2.describe_instances().instance_ids(id).send()).unwrap();
        answer.reservations()[0].instances()[0].state().unwrap().name().unwrap().clone()
    }

    /// Waits until an image can be launched.
    pub fn becomes_available(&self, image: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.block_on(self.ec2.describe_images().image_ids(image).send()).unwrap();
            if answer.images().iter().any(|i| i.state() == Some(&ImageState::Available)) {
                return;
            }
            assert!(Instant::now() < end, "{:?}", answer.images());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A running instance; terminated when the test is done with it.
pub struct Machine {
    /// The instance's id.
    pub id: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said as errors.
    pub stderr: String,
}

impl Ran {
    /// Whether it exited 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Machine {
    /// Runs a shell script in the machine, as root.
    pub fn shell(&self, script: &str) -> Ran {
        kiln(&["lab", "shell", &self.id, "--", "/bin/sh", "-c", script])
    }

    /// What a script prints that has to succeed.
    pub fn ask(&self, script: &str) -> String {
        let ran = self.shell(script);
        assert!(ran.ok(), "`{script}` on {}: {ran:?}\n{}", self.id, self.console());
        ran.stdout.trim_end().to_owned()
    }

    /// Runs a script until it succeeds: for what comes to be on its own time.
    pub fn until(&self, script: &str) {
        self.until_with(PATIENCE, script);
    }

    fn until_with(&self, patience: Duration, script: &str) {
        let end = Instant::now() + patience;
        loop {
            let ran = self.shell(script);
            if ran.ok() {
                return;
            }
            assert!(Instant::now() < end, "never came true on {}: `{script}`: {ran:?}\n{}", self.id, self.console());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the machine's boot has its verdict.
    pub fn settled(&self) -> Status {
        // The machine itself is up a moment after the API has promised it.
        self.until("systemctl is-active basic.target");
        let waited = self.shell("kiln-agent status --wait --timeout 170s");
        assert!(waited.code < 3, "no verdict on {}: {waited:?}\n{}", self.id, self.console());
        self.status()
    }

    /// The status file as it stands.
    pub fn status(&self) -> Status {
        serde_json::from_str(&self.ask("cat /run/kiln/status.json")).unwrap()
    }

    /// Boots the machine anew and waits until it is another boot.
    pub fn reboot(&self) {
        let before = self.ask("cat /proc/sys/kernel/random/boot_id /run/kiln/status.json | sha256sum");
        let lab = lab();
        lab.block_on(lab.ec2.reboot_instances().instance_ids(&self.id).send()).unwrap();
        self.until(&format!(
            "test \"$(cat /proc/sys/kernel/random/boot_id /run/kiln/status.json | sha256sum)\" != '{before}' && \
             systemctl is-active basic.target"
        ));
    }

    /// Waits until the API tells this state of the instance.
    pub fn becomes(&self, state: &InstanceStateName) {
        let end = Instant::now() + PATIENCE;
        while lab().state_of(&self.id) != *state {
            assert!(Instant::now() < end, "{} is {:?}, not {state:?}", self.id, lab().state_of(&self.id));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the machine has said on its console.
    pub fn console(&self) -> String {
        kiln(&["lab", "console", &self.id]).stdout
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let lab = lab();
        let _ = lab.block_on(lab.ec2.terminate_instances().instance_ids(&self.id).send());
    }
}

/// The top of the checkout.
fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The `kiln` that `tests/e2e.sh` has built.
pub fn program() -> PathBuf {
    std::env::var_os("KILN").map_or_else(|| checkout().join("target/debug/kiln"), PathBuf::from)
}

/// Runs `kiln` at the top of the checkout.
pub fn kiln(args: &[&str]) -> Ran {
    run(Command::new(program()).args(args))
}

/// Runs a command at the top of the checkout.
pub fn run(command: &mut Command) -> Ran {
    command.current_dir(checkout()).output().unwrap().into()
}

/// A bake in a folder of its own.
pub struct Baked {
    /// How `kiln bake` ended.
    pub ran: Ran,
    /// Where the report was brought to.
    pub report: PathBuf,
    _folder: tempfile::TempDir,
}

/// Bakes `image` from a kiln.yaml and the files beside it.
pub fn bake(image: &str, kiln_yaml: &str, files: &[(&str, &str)]) -> Baked {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kiln.yaml"), kiln_yaml).unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let report = folder.path().join("report");
    let file = folder.path().join("kiln.yaml");
    let ran = kiln(&["-f", file.to_str().unwrap(), "bake", image, "--report", report.to_str().unwrap()]);
    Baked { ran, report, _folder: folder }
}
