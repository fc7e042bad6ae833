//! What runs at night and on a commit: many at once, some of them killed, and all run again.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use kiln_tests::{lab, program, skip};
use serde_json::Value;

use super::factory::{Project, Victim, groups_in, images, left, one, strike};

/// Exit code of tests/buildbot.py where PyPI cannot be reached.
const CANNOT_REACH: i32 = 77;

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn buildbot_whose_workers_are_killed_bakes_each_image_once() {
    lab().golden();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/buildbot.py");
    let output = Command::new("python3").arg(script).env("KILN", program()).stderr(Stdio::inherit()).output().unwrap();
    if output.status.code() == Some(CANNOT_REACH) {
        skip("PyPI cannot be reached, so there is no Buildbot");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    for worker in ["one", "two"] {
        assert!(told["lost"][worker].as_u64().is_some_and(|lost| lost > 0), "{worker} lost no build: {told}");
    }
    let groups = told["groups"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let tries = told["tries"].as_object().unwrap();
    assert_eq!(tries.len(), 6, "{told}");
    for image in tries.keys() {
        assert_eq!(images(image), 1, "{image}: {told}");
        assert_eq!(left(image, &groups), Vec::<String>::new(), "{image}: {told}");
    }
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn two_that_find_one_bake_killed_keep_its_image_and_make_no_other() {
    lab().golden();
    let project = Project::new(&one("orphan").replace("gate_timeout", "prove: false, gate_timeout"));
    // Nothing that was baked before, also in a lab that was kept.
    project.write("content", &format!("{}\n", project.0.path().display()));
    let before = images("orphan");
    let mut killed = project.command(&["bake", "orphan"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(killed.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The gate has vouched for the image, and it is there.
    assert!(said.any(|line| line.contains(" s  tag")), "the bake came to no end");
    strike(Victim::Both, &mut killed, project.0.path());
    killed.wait().unwrap();
    let groups = groups_in(project.0.path());

    let start = || project.command(&["bake", "orphan", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let ended = [start(), start(), start()].map(|child| child.wait_with_output().unwrap());
    let said = ended.iter().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).collect::<String>();
    assert!(ended.iter().all(|output| output.status.success()), "{said}");
    // One of them vouches for it; the others wait and do not take it away meanwhile.
    assert_eq!(said.matches("\"event\":\"unchanged\"").count(), 3, "{said}");
    assert_eq!(images("orphan"), before + 1, "{said}");
    assert_eq!(left("orphan", &groups), Vec::<String>::new(), "{said}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_pipeline_that_runs_again_finds_all_of_it_done() {
    lab().golden();
    let project = Project::new(&one("piped").replace("gate_timeout", "prove: false, gate_timeout"));
    project.write("content", &format!("{}\n", project.0.path().display()));
    let run = || {
        let ran = project.kiln(&["pipeline", "run", "piped", "--promote", "canary", "--format", "json"]);
        assert!(ran.ok(), "{ran:?}");
        let events = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.into_iter().find(|event| event["event"] == "pipeline").unwrap()
    };
    let (first, second) = (run(), run());
    let ends = |told: &Value| {
        let image = &told["images"][0];
        [&image["bake"], &image["promoted"]].map(|text| text.as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ends(&first), ["baked", "in canary"], "{first}");
    assert_eq!(ends(&second), ["unchanged", "in canary already"], "{second}");
    assert_eq!(first["images"][0]["image"], second["images"][0]["image"]);
}
