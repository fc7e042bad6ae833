//! What the emulator of the lab does not do: dates of deprecation.
#![allow(clippy::disallowed_methods, reason = "a test starts the program and prepares its folder")]
#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing loudly")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// An account with one image, which answers as EC2 documents it.
#[derive(Default)]
struct Account {
    deprecated: Mutex<Option<String>>,
    asked: Mutex<Vec<String>>,
}

impl Account {
    fn answer(&self, body: &str) -> String {
        let field = |name: &str| {
            let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.replace("%3A", ":")).next()
        };
        let action = field("Action").unwrap();
        self.asked.lock().unwrap().push(action.clone());
        let inner = match action.as_str() {
            "DescribeImages" => {
                let deprecated = self.deprecated.lock().unwrap().clone();
                let deprecated = deprecated.map(|at| format!("<deprecationTime>{at}</deprecationTime>"));
                format!(
                    "<imagesSet><item><imageId>ami-1</imageId><name>golden-1</name><imageState>available</imageState>\
                     <creationDate>2999-01-01T00:00:00.000Z</creationDate><architecture>x86_64</architecture><tagSet>\
                     <item><key>application</key><value>golden</value></item>\
                     <item><key>gate</key><value>passed 2026-01-01T00:00:00Z</value></item></tagSet>{}</item></imagesSet>",
                    deprecated.unwrap_or_default()
                )
            }
            "EnableImageDeprecation" => {
                // EC2 keeps the minute alone.
                let at = field("DeprecateAt").unwrap();
                *self.deprecated.lock().unwrap() = Some(format!("{}:00.000Z", &at[..16]));
                "<return>true</return>".to_owned()
            }
            "CreateLaunchTemplate" => {
                "<launchTemplate><launchTemplateId>lt-1</launchTemplateId></launchTemplate>".into()
            }
            "DeleteLaunchTemplate" => String::new(),
            other => unreachable!("nobody expects {other}"),
        };
        format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId>{inner}\
             </{action}Response>"
        )
    }
}

fn serve(account: Arc<Account>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| talk(stream, &account)));
    address
}

fn talk(mut stream: TcpStream, account: &Account) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = account.answer(std::str::from_utf8(&body).unwrap());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\nconnection: close\r\ncontent-length:";
    let _ = stream.write_all(format!("{head} {}\r\n\r\n{answer}", answer.len()).as_bytes());
}

#[test]
fn an_image_gets_the_date_that_counts_from_when_it_was_made_and_gets_it_once() {
    let account = Arc::new(Account::default());
    let address = serve(account.clone());
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "images:\n  golden: {{layer: golden, from: {{ami: {{owners: [self], name: x}}}}}}\ntargets:\n  \
         here: {{kind: amazon-ebs, endpoint: \"{address}\", region: eu-west-1, deprecate_after: 90d}}\n"
    );
    std::fs::write(folder.path().join("kiln.yaml"), yaml).unwrap();
    let copy = || -> Output {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        kiln.args(["copy", "golden"]).current_dir(folder.path()).env_clear().env("KILN_STATE_DIR", "state");
        kiln.envs([("PATH", "/usr/bin:/bin"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")]);
        kiln.output().unwrap()
    };
    let first = copy();
    let said = String::from_utf8_lossy(&first.stdout);
    assert!(first.status.success() && said.trim_end().ends_with("eu-west-1 ami-1 completed"), "{first:?}");
    assert_eq!(account.deprecated.lock().unwrap().as_deref(), Some("2999-04-01T00:00:00.000Z"));
    let second = copy();
    let said = String::from_utf8_lossy(&second.stdout);
    assert!(second.status.success() && said.trim_end().ends_with("eu-west-1 ami-1 complete"), "{second:?}");
    let asked = account.asked.lock().unwrap();
    assert_eq!(asked.iter().filter(|action| *action == "EnableImageDeprecation").count(), 1, "{asked:?}");
    assert_eq!(asked.last().map(String::as_str), Some("DescribeImages"), "what is complete needs no lease");
}
