//! kiln-cloud-init in the place of Debian's own cloud-init: on machines on which that has run, put there and taken
//! away again with apt, and for a packer template that knows nothing of Kiln.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kiln_schema::State;
use kiln_tests::{Machine, Ran, kiln, lab, program, run};
use serde_json::{Value as Json, json};

/// What a distribution or an operator adds to cloud-init's settings in an image.
const SETTINGS: &str = "system_info: {default_user: {name: operator, shell: /bin/bash, \
                        sudo: [\"ALL=(ALL) NOPASSWD:ALL\"]}}\nfinal_message: of the image\n";
/// A service of somebody's that waits for cloud-init by the names that it has for its units.
const WAITING: &str = "[Unit]\\nAfter=cloud-final.service\\n[Service]\\nType=oneshot\\nRemainAfterExit=yes\\n\
                       ExecStart=/bin/sh -c \"cloud-init status >/run/waited; ls /run/cloud-init >>/run/waited\"\\n\
                       [Install]\\nWantedBy=cloud-init.target\\n";
/// cloud-init's settings and what it knows of instances, as sums.
const STATE: &str = "cd / && find etc/cloud var/lib/cloud/instances/*/sem var/lib/cloud/instances/*/obj.pkl \
                     -type f -exec sha256sum {} + | sort -k 2";

/// A stock Debian on which its own cloud-init has set the machine up.
fn stock(user_data: &str) -> Machine {
    let lab = lab();
    let named = aws_sdk_ec2::types::Filter::builder().name("name").values("debian-12-amd64-tests").build();
    let found = lab.block_on(lab.ec2.describe_images().filters(named).send()).unwrap();
    let machine = lab.launch_image(found.images()[0].image_id().unwrap(), user_data);
    machine.until("systemctl is-active basic.target");
    assert!(machine.ask("timeout 120 cloud-init status --wait").ends_with("status: done"));
    machine
}

/// Puts Kiln's packages over cloud-init, as an operator does.
fn convert(machine: &Machine) {
    for name in ["kiln-agent", "kiln-cloud-init"] {
        let package = package(name);
        let mut put = Command::new(program());
        put.args(["lab", "shell", &machine.id, "--", "/bin/sh", "-c", &format!("cat >/root/{name}.deb")]);
        let put = run(put.stdin(Stdio::from(File::open(&package).unwrap())));
        assert!(put.ok(), "{}: {put:?}", package.display());
    }
    let before = machine.ask(STATE);
    machine.ask(
        "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \
         /root/kiln-agent.deb /root/kiln-cloud-init.deb && rm /root/*.deb",
    );
    assert_eq!(machine.ask("dpkg-query -W -f '${db:Status-Status}' cloud-init"), "config-files");
    assert_eq!(machine.ask(STATE), before, "cloud-init's settings and state are left to it");
    assert_eq!(machine.ask("systemctl is-enabled cloud-init.target kiln.target | sort -u"), "alias\nenabled");
}

/// The newest package of this name that `tests/e2e.sh` has built.
fn package(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/deb");
    let packages = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = packages.filter(|path| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    });
    named.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).expect("run packaging/dev/agent-deb.sh")
}

/// An image of a machine on which Kiln was installed over cloud-init, and which no Kiln has booted yet.
fn converted() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let machine = stock("#cloud-config\nruncmd: [touch /var/tmp/by-cloud-init]\n");
        machine.ask("test -e /var/tmp/by-cloud-init");
        convert(&machine);
        machine.ask(&format!(
            "printf '{}' >/etc/cloud/cloud.cfg.d/95_operator.cfg && printf '{WAITING}' \
             >/etc/systemd/system/waiting.service && systemctl enable waiting.service && sync",
            SETTINGS.replace('\n', "\\n")
        ));
        let lab = lab();
        let made = lab.ec2.create_image().instance_id(&machine.id).name(format!("drop-in-{}", machine.id)).send();
        let image = lab.block_on(made).unwrap().image_id().unwrap().to_owned();
        lab.becomes_available(&image);
        image
    })
}

/// `cloud-init status --wait` on a fresh machine of the image.
fn waited(user_data: &str) -> (Machine, Ran) {
    let machine = lab().launch_image(converted(), user_data);
    machine.until("systemctl is-active basic.target");
    let ran = machine.shell("timeout 170 cloud-init status --wait");
    (machine, ran)
}

fn read(machine: &Machine, path: &str) -> Json {
    serde_json::from_str(&machine.ask(&format!("cat {path}"))).unwrap()
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_machine_with_kiln_over_its_cloud_init_is_one_of_cloud_init_to_whoever_asks() {
    let (machine, ran) = waited(
        "#cloud-config\nbootcmd:\n- cloud-init-per instance my-mark sh -c 'echo instance >>/var/tmp/per'\n\
         - cloud-init-per always all sh -c 'echo boot >>/var/tmp/per'\n\
         - cloud-init-per once disk sh -c 'echo disk >>/var/tmp/per'\n\
         runcmd:\n- echo said by a command\n- echo and as an error >&2\n",
    );
    assert_eq!(ran.code, 0, "{ran:?}\n{}", machine.console());
    assert!(ran.stdout.ends_with("status: done\n"), "{ran:?}");
    assert_eq!(machine.status().state, State::Done, "{:?}", machine.status());

    let told: Json = serde_json::from_str(&machine.ask("cloud-init status --format json")).unwrap();
    for (field, value) in [
        ("status", json!("done")),
        ("extended_status", json!("done")),
        ("errors", json!([])),
        ("recoverable_errors", json!({})),
        ("detail", json!("DataSourceEc2Local")),
    ] {
        assert_eq!(told[field], value, "{told}");
    }
    let yaml = machine.ask("cloud-init status --format yaml");
    assert!(yaml.contains("\nextended_status: done\n") && yaml.contains("errors: []"), "{yaml}");
    assert!(machine.ask("cloud-init status --long").contains("boot_status_code: enabled-by-"));
    assert_eq!(machine.ask("cloud-id"), "aws");

    let stages = read(&machine, "/run/cloud-init/status.json");
    assert_eq!(stages["v1"]["stage"], Json::Null);
    for stage in ["init-local", "init", "modules-config", "modules-final"] {
        assert_eq!(stages["v1"][stage]["errors"], json!([]), "{stage}");
        assert!(stages["v1"][stage]["finished"].as_f64() >= stages["v1"][stage]["start"].as_f64(), "{stages}");
    }
    let result = read(&machine, "/run/cloud-init/result.json");
    assert_eq!(result, json!({"v1": {"datasource": "DataSourceEc2Local", "errors": []}}));
    let data = read(&machine, "/run/cloud-init/instance-data.json");
    assert_eq!((&data["v1"]["instance_id"], &data["v1"]["cloud_name"]), (&json!(machine.id), &json!("aws")));
    assert_eq!(machine.ask("cloud-init query v1.instance_id"), machine.id);
    machine.ask("test -s /var/lib/cloud/instance/boot-finished");
    assert_eq!(machine.ask("readlink /var/lib/cloud/instance"), format!("/var/lib/cloud/instances/{}", machine.id));

    // Units under their names, and a service that waits for them.
    let units = "cloud-init-local.service cloud-init.service cloud-config.service cloud-config.target \
                 cloud-final.service cloud-init.target";
    machine.until(&format!("systemctl is-active {units}"));
    machine.until("systemctl is-active waiting.service");
    let seen = machine.ask("cat /run/waited");
    assert!(seen.starts_with("status: ") && seen.contains("result.json"), "it ran before the end: {seen}");

    // The image's own settings count, and its list of modules is said not to.
    assert_eq!(machine.ask("id -nu operator; sudo -u operator sudo -n id -u"), "operator\n0");
    let plan = machine.ask("kiln-agent plan");
    assert!(plan.contains("/etc/cloud/cloud.cfg.d/95_operator.cfg:1"), "{plan}");
    assert!(plan.contains("cloud_final_modules: cloud-init's key, not done by kiln-agent"), "{plan}");

    let output = machine.ask("cat /var/log/cloud-init-output.log");
    assert!(output.contains("\nsaid by a command\n") && output.contains("\nand as an error\n"), "{output}");
    assert!(machine.ask("cat /var/log/cloud-init.log").contains(" - runcmd[INFO]: ok in "));
    assert_eq!(machine.ask("cat /var/tmp/per"), "instance\nboot\ndisk");
    let mark = machine.ask("cat /var/lib/cloud/instance/sem/bootper.my_mark.instance");
    assert!(mark.starts_with("0\t"), "{mark}");

    machine.reboot();
    let again = machine.shell("timeout 170 cloud-init status --wait");
    assert_eq!(again.code, 0, "{again:?}\n{}", machine.console());
    assert_eq!(machine.ask("cat /var/tmp/per"), "instance\nboot\ndisk\nboot");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn who_waits_for_cloud_init_gets_its_exit_codes() {
    let (machine, failed) = waited("#cloud-config\nruncmd: ['false']\n");
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stdout.ends_with("status: error\n"), "{failed:?}");
    let errors = read(&machine, "/run/cloud-init/result.json")["v1"]["errors"].take();
    assert!(errors[0].as_str().unwrap().starts_with("runcmd: command 1 (`false`, line 2) exited 1"), "{errors}");
    drop(machine);
    let (machine, degraded) = waited("#cloud-config\nphone_home: {url: 'http://127.0.0.1:1/', tries: 1}\n");
    assert_eq!(degraded.code, 2, "{degraded:?}");
    let told: Json = serde_json::from_str(&machine.shell("cloud-init status --format json").stdout).unwrap();
    assert_eq!((&told["status"], &told["extended_status"]), (&json!("done"), &json!("degraded done")), "{told}");
    assert_eq!(told["errors"], json!([]), "{told}");
}

/// Runs packer on a template as its manual has it: nothing of Kiln's, and the lab's own settings.
fn packer(folder: &tempfile::TempDir, name: &str, user_data: &str) -> Ran {
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("user-data"), user_data).unwrap();
    let template = json!({
        "builders": [{
            "type": "amazon-ebs", "ami_name": name, "region": lab().access.region, "source_ami": converted(),
            "instance_type": "t3.micro", "ssh_username": "operator", "user_data_file": file("user-data"),
            "ssh_timeout": "60s", "aws_polling": {"delay_seconds": 1, "max_attempts": 300},
            "custom_endpoint_ec2": lab().access.endpoint, "skip_region_validation": true,
            "skip_credential_validation": true, "skip_metadata_api_check": true, "force_deregister": true,
            "ssh_interface": "private_ip"
        }],
        "provisioners": [{"type": "shell", "inline": [
            "cloud-init status --wait", "test -e /var/tmp/by-user-data", "sudo touch /var/tmp/by-packer"
        ]}],
        "post-processors": [{"type": "manifest", "output": file("manifest.json")}]
    });
    fs::write(file("template.json"), template.to_string()).unwrap();
    kiln(&["lab", "exec", "--", "packer", "build", &file("template.json")])
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_packer_template_that_waits_for_cloud_init_bakes_and_fails_with_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let ran = packer(&folder, "of-a-stock-template", "#cloud-config\nruncmd: [touch /var/tmp/by-user-data]\n");
    assert!(ran.ok(), "{ran:?}");
    let manifest: Json = serde_json::from_slice(&fs::read(folder.path().join("manifest.json")).unwrap()).unwrap();
    let (_, image) = manifest["builds"][0]["artifact_id"].as_str().unwrap().split_once(':').unwrap();
    lab().becomes_available(image);
    let machine = lab().launch_image(image, "#cloud-config\nhostname: baked\n");
    machine.until("systemctl is-active basic.target");
    let waited = machine.shell("timeout 170 cloud-init status --wait");
    assert_eq!(waited.code, 0, "{waited:?}");
    assert_eq!(
        machine.ask("hostname; ls /var/tmp/by-*"),
        "baked\n/var/tmp/by-cloud-init\n/var/tmp/by-packer\n/var/tmp/by-user-data"
    );

    let folder = tempfile::tempdir().unwrap();
    let broken = "#cloud-config\nruncmd: [touch /var/tmp/by-user-data, 'false']\n";
    let ran = packer(&folder, "never-made", broken);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("status: error"), "{ran:?}");
    assert!(!folder.path().join("manifest.json").exists(), "a machine that failed became an image");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn the_way_back_leaves_cloud_init_its_machine() {
    let machine = stock("#cloud-config\nruncmd: [echo ran >>/var/tmp/ran]\n");
    let state = machine.ask(STATE);
    convert(&machine);
    machine.reboot();
    assert_eq!(machine.settled().state, State::Done, "{:?}", machine.status());
    let of_kiln = machine.ask("wc -l </var/tmp/ran");

    let proxy = &lab().access.proxy;
    let apt = format!("DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::http::Proxy={proxy}");
    machine.ask(&format!("{apt} update && {apt} --no-install-recommends install cloud-init"));
    let left = machine.ask("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' 'kiln*' cloud-init");
    assert!(left.contains("cloud-init installed\n") || left.ends_with("cloud-init installed"), "{left}");
    machine.ask(&format!("{apt} purge kiln-agent kiln-cloud-init"));
    let ours = "find / -xdev \\( -iname '*kiln*' -o -lname '*kiln*' \\) -not -path '/var/cache/*' \
                -not -path '/var/log/*' -not -path '/var/lib/apt/*' -not -path '/tmp/*' -not -path '/proc/*'";
    assert_eq!(machine.ask(ours), "", "what is left of Kiln");
    assert_eq!(machine.ask(STATE), state, "cloud-init's settings and state");

    // Another boot of the same instance: its own program finds its own state.
    let before = machine.ask("cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestamp");
    let lab = lab();
    lab.block_on(lab.ec2.reboot_instances().instance_ids(&machine.id).send()).unwrap();
    machine.until(&format!(
        "test \"$(cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestamp)\" != '{before}' && \
         systemctl is-active basic.target"
    ));
    let waited = machine.shell("timeout 170 cloud-init status --wait");
    assert!(waited.ok() && waited.stdout.ends_with("status: done\n"), "{waited:?}\n{}", machine.console());
    let version = machine.ask("cloud-init --version");
    assert!(!version.contains("kiln"), "{version}");
    assert_eq!(machine.ask("wc -l </var/tmp/ran"), of_kiln, "its instance is no new one to it");
}
