//! One image in three regions, through its stages and back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln_tests::{Answer, Ran, Request, Server, lab, program, run};

const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "eu-central-1"];

/// What the front of the API does with a copy.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It is refused in this region.
    Refuses(&'static str),
    /// It is made in this region, and the answer gets lost.
    Loses(&'static str),
}

/// The API of the lab with faults of one's choice in front.
struct Front {
    server: Server,
    fault: Arc<Mutex<Fault>>,
    /// How many copies got through.
    copies: Arc<AtomicUsize>,
}

fn front() -> Front {
    let (fault, copies) = (Arc::new(Mutex::new(Fault::None)), Arc::new(AtomicUsize::new(0)));
    let (now, count) = (fault.clone(), copies.clone());
    // On the host, where kiln runs.
    let server = Server::start_at(PathBuf::from("/proc/self/ns/net"), "127.0.0.1:0", move |_, request| {
        let fault = *now.lock().unwrap();
        if !request.text().contains("Action=CopyImage") {
            return forward(request);
        }
        // The signature has the region, and nothing else in the request.
        let is_for = |region: &str| request.headers.iter().any(|header| header.contains(&format!("/{region}/ec2/")));
        match fault {
            Fault::Refuses(region) if is_for(region) => Answer::Status(
                400,
                "<Response><Errors><Error><Code>ResourceLimitExceeded</Code><Message>too many copies</Message></Error>\
                 </Errors><RequestID>1</RequestID></Response>"
                    .to_owned(),
            ),
            Fault::Loses(region) if is_for(region) => {
                forward(request);
                count.fetch_add(1, SeqCst);
                Answer::Silence
            }
            _ => {
                count.fetch_add(1, SeqCst);
                forward(request)
            }
        }
    });
    Front { server, fault, copies }
}

/// Hands a request on to the lab.
fn forward(request: &Request) -> Answer {
    let address = lab().access.host_endpoint.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("{} HTTP/1.1\r\n", request.line);
    let kept = request.headers.iter().filter(|header| !header.to_ascii_lowercase().starts_with("connection:"));
    kept.for_each(|header| head += &format!("{header}\r\n"));
    head += "Connection: close\r\n\r\n";
    stream.write_all(&[head.as_bytes(), &request.body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer::Status(head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// `kiln` with a kiln.yaml of its own and a journal of its own.
fn kiln(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("-f").arg(folder.join("kiln.yaml")).args(arguments.split(' '));
    // Where it finds the package that the image was baked with.
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.env("KILN_STATE_DIR", folder.join("state")).env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
    command
}

fn ask(folder: &Path, arguments: &str) -> String {
    let ran = run(&mut kiln(folder, arguments));
    assert!(ran.ok(), "{arguments}: {ran:?}");
    ran.stdout.trim().to_owned()
}

fn refused(folder: &Path, arguments: &str, why: &str) {
    let ran = run(&mut kiln(folder, arguments));
    assert_eq!(ran.code, 1, "{arguments}: {ran:?}");
    assert!(ran.stderr.contains(why), "{arguments}: {ran:?}");
}

fn folder(image: &str, endpoint: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "defaults: {{target: wide, owner: sre, ssh_username: admin, gate_timeout: 3m}}
images:
  {image}: {{layer: base, from: {{ami: {{owners: [self], name: \"golden-12*\"}}}}, version: \"1\"}}
targets:
  lab: {{kind: amazon-ebs, endpoint: lab}}
  wide:
    kind: amazon-ebs
    endpoint: \"{endpoint}\"
    regions: [{}]
    share_with: [\"111122223333\"]
",
        REGIONS.join(", ")
    );
    std::fs::write(folder.path().join("kiln.yaml"), yaml).unwrap();
    folder
}

/// What a region has of a line: ids, and the tags without the one that only copies have.
fn images(region: &str, line: &str) -> Vec<(String, Vec<(String, String)>, Option<String>)> {
    let config = lab().ec2.config().to_builder().region(aws_sdk_ec2::config::Region::new(region.to_owned())).build();
    let filter = aws_sdk_ec2::types::Filter::builder().name("name").values(format!("{line}-*")).build();
    let request = aws_sdk_ec2::Client::from_conf(config).describe_images().owners("self").filters(filter).send();
    let found = lab().block_on(request).unwrap();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let mut all: Vec<_> = found
        .images()
        .iter()
        .map(|image| {
            let mut tags: Vec<_> = image.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect();
            tags.sort();
            let from = tags.iter().position(|(key, _)| key == "copied_from").map(|position| tags.remove(position).1);
            (text(image.image_id()), tags, from)
        })
        .collect();
    all.sort();
    all
}

fn outcome<'a>(ran: &'a Ran, region: &str) -> &'a str {
    ran.stdout.lines().find(|line| line.contains(region)).unwrap_or_else(|| panic!("{region} is not in {ran:?}"))
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_3_a_copy_that_was_cut_short_is_completed_and_not_made_twice() {
    let front = front();
    // Of its own: a lab that is kept has those of earlier runs.
    let wide = format!("wide{}", std::process::id());
    let folder = folder(&wide, &front.server.url);
    let folder = folder.path();
    let report = folder.join("report");
    ask(folder, &format!("bake {wide} --target lab --report {}", report.display()));

    // Killed after the order arrived and before anybody heard of it.
    *front.fault.lock().unwrap() = Fault::Loses("eu-west-1");
    let mut killed = kiln(folder, &format!("bake {wide}")).stdout(Stdio::null()).spawn().unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while front.copies.load(SeqCst) < 2 {
        assert!(std::time::Instant::now() < end, "nothing was copied");
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let last = images("eu-central-1", &wide).remove(0).0;
    let config = lab().ec2.config().to_builder().region(aws_sdk_ec2::config::Region::new("eu-central-1")).build();
    let client = aws_sdk_ec2::Client::from_conf(config);
    lab().block_on(client.deregister_image().image_id(last).send()).unwrap();

    // One region refuses: the others are complete, the exit code says that not all are.
    *front.fault.lock().unwrap() = Fault::Refuses("eu-central-1");
    let ran = run(&mut kiln(folder, &format!("bake {wide}")));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(outcome(&ran, "eu-west-1").ends_with(" completed"), "{ran:?}");
    let failed = outcome(&ran, "eu-central-1");
    assert!(failed.contains("- failed: CopyImage failed") && failed.contains("too many copies"), "{failed}");
    assert_eq!(images("eu-central-1", &wide), []);
    refused(folder, &format!("promote {wide} --to canary"), "is not complete in eu-central-1: kiln copy ami-");

    *front.fault.lock().unwrap() = Fault::None;
    let ran = run(&mut kiln(folder, &format!("copy {wide}")));
    assert!(ran.ok(), "{ran:?}");
    assert!(outcome(&ran, "eu-west-1").ends_with(" complete"), "{ran:?}");
    assert!(outcome(&ran, "eu-central-1").ends_with(" copied"), "{ran:?}");
    let [home, ..] = &images("us-east-1", &wide)[..] else { panic!("no image") };
    for region in REGIONS {
        let there = images(region, &wide);
        assert_eq!(there.len(), 1, "one image of the name in {region}: {there:?}");
        assert_eq!(there[0].1, home.1, "the same tags in {region}");
        assert_eq!(there[0].2.as_ref(), (region != "us-east-1").then_some(&home.0), "{region}");
    }
    let before = front.copies.load(SeqCst);
    assert!(ask(folder, &format!("bake {wide}")).lines().skip(1).all(|line| line.ends_with(" complete")));
    assert_eq!(front.copies.load(SeqCst), before, "nothing was copied again");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_image_goes_to_production_in_all_regions_and_comes_back() {
    let staged = format!("staged{}", std::process::id());
    let folder = folder(&staged, &lab().access.host_endpoint);
    let folder = folder.path();
    let bake = |number: u8| {
        ask(folder, &format!("bake {staged} --target lab --rebuild --report {}/report{number}", folder.display()));
        ask(folder, &format!("copy {staged}"));
    };
    bake(1);
    let first = ask(folder, &format!("latest {staged}"));
    refused(
        folder,
        &format!("promote {staged} --to production"),
        &format!("no image of {staged} is in canary at wide"),
    );
    refused(folder, &format!("promote {first} --to production"), "production takes canary alone");
    refused(
        folder,
        &format!("latest {staged} --stage production"),
        &format!("promote one: kiln promote {staged} --to production"),
    );
    ask(folder, &format!("promote {staged} --to canary --reason trial"));
    assert_eq!(ask(folder, &format!("latest {staged} --stage canary")), first);
    ask(folder, &format!("promote {staged} --to production"));
    refused(folder, &format!("rollback {staged}"), "nothing was in production before");

    bake(2);
    let second = ask(folder, &format!("latest {staged}"));
    ask(folder, &format!("promote {staged} --to canary"));
    // Two at once exclude each other, and the second finds nothing to do.
    let both = [0, 1].map(|_| {
        kiln(folder, &format!("promote {staged} --to production --format json")).stdout(Stdio::piped()).spawn().unwrap()
    });
    let said = both.map(|one| one.wait_with_output().unwrap());
    let already =
        said.iter().filter(|output| String::from_utf8_lossy(&output.stdout).contains("\"already\":true")).count();
    assert!(said.iter().all(|output| output.status.success()) && already == 1, "{said:?}");

    let stages = |region: &str| -> Vec<(String, String)> {
        let stage = |tags: &[(String, String)]| tags.iter().find(|(key, _)| key == "stage").unwrap().1.clone();
        images(region, &staged).iter().map(|(id, tags, _)| (id.clone(), stage(tags))).collect()
    };
    let production = |region: &str| ask(folder, &format!("latest {staged} --stage production --region {region}"));
    let at_home =
        |stages: &[(String, String)], id: &str| stages.iter().find(|(other, _)| other == id).unwrap().1.clone();
    assert_eq!(
        (at_home(&stages("us-east-1"), &second), at_home(&stages("us-east-1"), &first)),
        ("production".into(), "previous".into())
    );
    for region in REGIONS {
        let stages = stages(region);
        assert_eq!(at_home(&stages, &production(region)), "production", "{region}");
        let mut words: Vec<_> = stages.into_iter().map(|(_, stage)| stage).collect();
        words.sort();
        assert_eq!(words, ["previous", "production"], "{region}");
    }

    ask(folder, &format!("rollback {staged} --reason slow"));
    assert_eq!(production("us-east-1"), first);
    assert_eq!(ask(folder, &format!("latest {staged} --stage canary")), first, "no canary takes what was rolled back");
    assert_eq!(ask(folder, &format!("latest {staged}")), first, "nothing is built on what was rolled back");
    for region in REGIONS {
        let (retired, tags, _) =
            images(region, &staged).into_iter().find(|(id, ..)| *id != production(region)).unwrap();
        for (key, value) in [("stage", "retired"), ("retired_why", "slow")] {
            assert!(tags.contains(&(key.to_owned(), value.to_owned())), "{retired} in {region}: {tags:?}");
        }
    }
    let listed = ask(folder, "images --stage production --format json");
    assert!(listed.lines().any(|line| line.contains(&first)), "{listed}");
    assert!(!listed.contains(&second), "{listed}");
}
