//! A canary of a launch template, with an agent that phones home.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::RequestLaunchTemplateData;
use kiln_tests::{Ran, lab, program, run};

const KILN_YAML: &str = "defaults: {target: lab, owner: sre, ssh_username: admin}
images:
  golden: {layer: golden, from: {ami: {owners: [\"136693071363\"], name: \"debian-12-amd64-*\"}}}
targets:
  lab: {kind: amazon-ebs, endpoint: \"http://10.0.0.1:5000\", region: us-east-1}
";

/// `kiln` in the lab's network, where machines can tell it something.
fn kiln(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["lab", "exec", "--name", &lab().access.name, "--"]).arg(program());
    command.arg("-f").arg(folder.join("kiln.yaml")).args(arguments.split(' '));
    command
}

fn next_image(template: &str) -> String {
    let request = lab().ec2.describe_launch_template_versions().launch_template_name(template).versions("$Default");
    let found = lab().block_on(request.send()).unwrap();
    found.launch_template_versions()[0].launch_template_data().unwrap().image_id().unwrap().to_owned()
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_canary_is_good_when_its_agent_says_so_and_stopped_when_its_instance_dies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("kiln.yaml"), KILN_YAML).unwrap();
    std::fs::write(folder.join("key"), "of the canary\n").unwrap();
    let template = format!("canary-{}", std::process::id());
    let data = RequestLaunchTemplateData::builder().image_id("ami-before").build();
    let request = lab().ec2.create_launch_template().launch_template_name(&template).launch_template_data(data);
    lab().block_on(request.send()).unwrap();
    let golden = lab().golden();
    let of = |what: &str| format!("canary {what} --launch-template {template}");

    let nothing: Ran = run(&mut kiln(folder, &of("watch golden")));
    assert_eq!(nothing.code, 1, "{nothing:?}");
    assert!(nothing.stderr.contains("no canary is under way in launch template"), "{nothing:?}");
    let begin = || {
        let begun = run(&mut kiln(folder, &of("start golden")));
        assert!(begun.ok() && begun.stdout.contains(&golden), "{begun:?}");
        assert_eq!(next_image(&template), golden);
    };
    begin();
    let none = run(&mut kiln(folder, &of("watch golden --for 1s --rollback")));
    assert_eq!(none.code, 1, "{none:?}");
    assert!(none.stdout.contains("is bad: no instance of it has come up, and the time is over"), "{none:?}");
    assert_eq!(next_image(&template), "ami-before");

    begin();
    let port = 20000 + std::process::id() % 10000;
    let user_data = format!(
        "#cloud-config\nphone_home: {{url: \"http://10.0.0.1:{port}/\", format: json, hmac_secret: of the canary}}\n"
    );
    let watch = format!("watch golden --for 12s --listen 10.0.0.1:{port} --key-file {}/key", folder.display());
    let watching = kiln(folder, &of(&watch)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let machine = lab().launch_image(&next_image(&template), &user_data);
    let good: Ran = watching.wait_with_output().unwrap().into();
    assert!(good.ok(), "{good:?}\n{}", machine.console());
    assert!(good.stdout.contains("is good: 1 instance runs, each phoned home"), "{good:?}");
    assert_eq!(next_image(&template), golden, "it stays");
    drop(machine);

    let back = RequestLaunchTemplateData::builder().image_id("ami-before").build();
    let request = lab().ec2.create_launch_template_version().launch_template_name(&template);
    let version = lab().block_on(request.launch_template_data(back).send()).unwrap();
    let number = version.launch_template_version().unwrap().version_number().unwrap();
    let request = lab().ec2.modify_launch_template().launch_template_name(&template);
    lab().block_on(request.default_version(number.to_string()).send()).unwrap();
    // An instance of the first canary is none of the second's. The API counts launches in whole seconds.
    std::thread::sleep(Duration::from_secs(1));
    begin();
    let watching = kiln(folder, &of("watch golden --for 2m --rollback")).stdout(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    drop(lab().launch_image(&next_image(&template), "#cloud-config\n"));
    let bad: Ran = watching.wait_with_output().unwrap().into();
    assert_eq!(bad.code, 1, "{bad:?}");
    assert!(bad.stdout.contains("is bad: i-"), "{bad:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "what is bad is told at once");
    // The version before it, which has the image that was there.
    assert_eq!(next_image(&template), "ami-before");
}
