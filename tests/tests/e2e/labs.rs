//! A lab leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_tests::{kiln, program, run};

const NAME: &str = "e2e-victim";

/// Processes, mounts, network namespaces and folders that have the lab's name.
fn traces() -> String {
    let look = format!(
        "pgrep -af '[e]2e-victim' | grep -v -e cargo -e /deps/; grep -o '[^ ]*{NAME}[^ ]*' /proc/mounts; \
         ip netns list | grep {NAME}; ls -d /run/kiln-lab/{NAME} /var/lib/kiln-lab/{NAME} 2>/dev/null; true"
    );
    run(Command::new("/bin/sh").args(["-c", &look])).stdout
}

fn start_a_machine() {
    let imported =
        kiln(&["lab", "import", "target/foundation", "--lab", NAME, "--name", "debian", "--owner", "136693071363"]);
    assert!(imported.ok(), "{imported:?}");
    let image = imported.stdout.trim();
    let launch = format!(
        "import boto3; print(boto3.client('ec2').run_instances(ImageId='{image}', MinCount=1, MaxCount=1)\
         ['Instances'][0]['InstanceId'])"
    );
    let launched = kiln(&["lab", "exec", "--name", NAME, "--", "python3", "-c", &launch]);
    assert!(launched.ok(), "{launched:?}");
    let machine = kiln_lab::Access::load(NAME).unwrap().unwrap().machine(launched.stdout.trim());
    machine.wait(kiln_lab::Until::Up, Duration::from_secs(90)).unwrap();
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_lab_that_is_killed_is_reaped_by_the_next_start_and_one_that_is_down_leaves_nothing() {
    assert!(kiln(&["lab", "down", "--name", NAME]).ok());
    assert!(kiln(&["lab", "up", "--name", NAME]).ok());
    assert_eq!(kiln(&["lab", "status", "--name", NAME]).code, 0);
    start_a_machine();
    assert!(traces().contains("systemd-nspawn"), "{}", traces());

    // What talks to the lab as packer does: without its network it would wait for an answer for ever.
    let exec = ["lab", "exec", "--name", NAME, "--", "sh", "-c", "echo inside; exec sleep 3600"];
    let mut inside = Command::new(program()).args(exec).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(inside.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    // Everything but the machine, which is then nobody's.
    run(Command::new("/bin/sh").args(["-c", "pkill -9 -f '[k]iln lab.*e2e-victim|[e]mulator.py.*e2e-victim'"]));
    let again = kiln(&["lab", "up", "--name", NAME]);
    assert!(again.ok(), "{again:?}");
    let end = Instant::now() + Duration::from_secs(10);
    while inside.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "what ran in the dead lab's network runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!traces().contains("systemd-nspawn"), "{}", traces());
    start_a_machine();
    let down = kiln(&["lab", "down", "--name", NAME]);
    assert!(down.ok(), "{down:?}");
    assert_eq!(traces(), "");
    assert_eq!(kiln(&["lab", "status", "--name", NAME]).code, 3);
}
