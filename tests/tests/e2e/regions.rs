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

/// An image in one region.
#[derive(Debug, PartialEq)]
struct There {
    id: String,
    /// Its tags, without the one that only copies have.
    tags: Vec<(String, String)>,
    copied_from: Option<String>,
}

impl There {
    fn stage(&self) -> &str {
        self.tags.iter().find(|(key, _)| key == "stage").map_or("", |(_, stage)| stage)
    }
}

fn ec2(region: &str) -> aws_sdk_ec2::Client {
    let region = aws_sdk_ec2::config::Region::new(region.to_owned());
    aws_sdk_ec2::Client::from_conf(lab().ec2.config().to_builder().region(region).build())
}

/// What a region has of a line.
fn images(region: &str, line: &str) -> Vec<There> {
    let filter = aws_sdk_ec2::types::Filter::builder().name("name").values(format!("{line}-*")).build();
    let found = lab().block_on(ec2(region).describe_images().owners("self").filters(filter).send()).unwrap();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let there = |image: &aws_sdk_ec2::types::Image| {
        let mut tags: Vec<_> = image.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect();
        tags.sort();
        let from = tags.iter().position(|(key, _)| key == "copied_from").map(|position| tags.remove(position).1);
        There { id: text(image.image_id()), tags, copied_from: from }
    };
    found.images().iter().map(there).collect()
}

/// A later image of a line, with the tags of the one there is: a stage is nothing to bake for.
fn another(line: &str) -> String {
    let like = images("us-east-1", line).remove(0);
    let name = format!("{line}-2.0-x86_64-later-ebs");
    let request = lab().ec2.copy_image().source_image_id(like.id).source_region("us-east-1").name(name).send();
    let id = lab().block_on(request).unwrap().image_id().unwrap().to_owned();
    let new = |(key, value): (String, String)| match key.as_str() {
        "stage" => (key, "candidate".to_owned()),
        _ => (key, value),
    };
    let kept = like.tags.into_iter().filter(|(key, _)| !key.starts_with("promoted_")).map(new);
    let tags = kept.map(|(key, value)| aws_sdk_ec2::types::Tag::builder().key(key).value(value).build()).collect();
    lab().block_on(lab().ec2.create_tags().resources(&id).set_tags(Some(tags)).send()).unwrap();
    id
}

/// Takes the copies of a line in a region away.
fn forget(region: &str, line: &str) {
    for image in images(region, line) {
        lab().block_on(ec2(region).deregister_image().image_id(image.id).send()).unwrap();
    }
}

fn outcome<'a>(ran: &'a Ran, region: &str) -> &'a str {
    ran.stdout.lines().find(|line| line.contains(region)).unwrap_or_else(|| panic!("{region} is not in {ran:?}"))
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn a_copy_that_was_cut_short_is_completed_and_not_made_twice() {
    let front = front();
    // Of its own: a lab that is kept has those of earlier runs.
    let wide = format!("wide{}", std::process::id());
    let folder = folder(&wide, &front.server.url);
    let folder = folder.path();
    let report = folder.join("report");
    ask(folder, &format!("bake {wide} --target lab --report {}", report.display()));

    // Told to stop while a copy is under way, and killed after another was ordered and before anybody heard of it.
    for (region, signal) in [("eu-west-1", "-INT"), ("eu-central-1", "-KILL")] {
        forget(region, &wide);
        let before = front.copies.load(SeqCst);
        let copies = if signal == "-INT" { 2 } else { 1 };
        *front.fault.lock().unwrap() = Fault::Loses(region);
        let bake = kiln(folder, &format!("bake {wide}")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while front.copies.load(SeqCst) < before + copies {
            assert!(std::time::Instant::now() < end, "nothing was copied to {region}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(run(Command::new("kill").args([signal, &bake.id().to_string()])).ok());
        let ran: Ran = bake.wait_with_output().unwrap().into();
        if signal == "-INT" {
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.stderr.contains("interrupted by SIGINT before ami-"), "{ran:?}");
        }
        assert_eq!(images(region, &wide).len(), 1, "the order arrived");
        *front.fault.lock().unwrap() = Fault::None;
        let ran = run(&mut kiln(folder, &format!("bake {wide}")));
        assert!(ran.ok() && outcome(&ran, region).ends_with(" completed"), "{ran:?}");
        assert_eq!(front.copies.load(SeqCst), before + copies, "it was found and not copied again");
    }

    // One region refuses: the others are complete, the exit code says that not all are.
    forget("eu-central-1", &wide);
    *front.fault.lock().unwrap() = Fault::Refuses("eu-central-1");
    let ran = run(&mut kiln(folder, &format!("bake {wide}")));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(outcome(&ran, "eu-west-1").ends_with(" complete"), "{ran:?}");
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
        assert_eq!(there[0].tags, home.tags, "the same tags in {region}");
        assert_eq!(there[0].copied_from.as_ref(), (region != "us-east-1").then_some(&home.id), "{region}");
    }
    let before = front.copies.load(SeqCst);
    let again = ask(folder, &format!("bake {wide}"));
    let told: Vec<_> = again.lines().filter(|line| REGIONS.iter().any(|region| line.contains(region))).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line.ends_with(" complete")), "{again}");
    assert_eq!(front.copies.load(SeqCst), before, "nothing was copied again");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_image_goes_to_production_in_all_regions_and_comes_back() {
    let staged = format!("staged{}", std::process::id());
    let folder = folder(&staged, &lab().access.host_endpoint);
    let folder = folder.path();
    ask(folder, &format!("bake {staged} --target lab --report {}/report", folder.display()));
    ask(folder, &format!("copy {staged}"));
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

    let second = another(&staged);
    assert_eq!(ask(folder, &format!("latest {staged}")), second);
    ask(folder, &format!("copy {second}"));
    ask(folder, &format!("promote {staged} --to canary"));
    // Two at once exclude each other, and the second finds nothing to do.
    let both = [0, 1].map(|_| {
        kiln(folder, &format!("promote {staged} --to production --format json")).stdout(Stdio::piped()).spawn().unwrap()
    });
    let said = both.map(|one| one.wait_with_output().unwrap());
    let already =
        said.iter().filter(|output| String::from_utf8_lossy(&output.stdout).contains("\"already\":true")).count();
    assert!(said.iter().all(|output| output.status.success()) && already == 1, "{said:?}");

    let production = |region: &str| ask(folder, &format!("latest {staged} --stage production --region {region}"));
    for region in REGIONS {
        let mut there = images(region, &staged);
        there.sort_by(|a, b| a.stage().cmp(b.stage()));
        let stages: Vec<_> = there.iter().map(There::stage).collect();
        assert_eq!(stages, ["previous", "production"], "{region}");
        assert_eq!(there[1].id, production(region), "{region}");
        let original = there[1].copied_from.as_ref().unwrap_or(&there[1].id);
        assert_eq!(*original, second, "{region}");
    }

    ask(folder, &format!("rollback {staged} --reason slow"));
    assert_eq!(production("us-east-1"), first);
    assert_eq!(ask(folder, &format!("latest {staged} --stage canary")), first, "no canary takes what was rolled back");
    assert_eq!(ask(folder, &format!("latest {staged}")), first, "nothing is built on what was rolled back");
    for region in REGIONS {
        let there = images(region, &staged);
        let retired = there.iter().find(|image| image.id != production(region)).unwrap();
        for (key, value) in [("stage", "retired"), ("retired_why", "slow")] {
            assert!(retired.tags.contains(&(key.to_owned(), value.to_owned())), "{region}: {retired:?}");
        }
    }
    let listed = ask(folder, "images --stage production --format json");
    assert!(listed.lines().any(|line| line.contains(&first)), "{listed}");
    assert!(!listed.contains(&second), "{listed}");
}
