//! The agent as one static file in a root that holds nothing else.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

const NAME: &str = "home.kiln.test";

fn sh(script: &str, folder: &Path) -> String {
    let output = Command::new("/bin/sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The agent out of the package that `kiln deb` has built.
pub fn unpacked(folder: &Path) {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/deb");
    sh(&format!("dpkg-deb --fsys-tarfile {packages}/kiln-agent_*.deb | tar -x ./usr/bin/kiln-agent"), folder);
}

/// Answers every question for an A record of [`NAME`] with this machine; says which names were asked for.
fn serve_names() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            // RFC 1035, 4.1: twelve bytes of header, the name in labels, type and class.
            let question = &packet[12..length];
            let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
            let (name, kind) = (&question[..end - 5], question[end - 3]);
            let wanted: Vec<u8> =
                NAME.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
            let known = name.eq_ignore_ascii_case(&wanted);
            let answers = u8::from(known && kind == 1);
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, answers, 0, 0, 0, 0]);
            answer.extend(&question[..end]);
            if answers == 1 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, client).unwrap();
        }
    });
}

const HTTPS: &str = "
import http.server, ssl
class Home(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(204); self.end_headers()
        print(self.headers['Host'], body.decode(), flush=True)
    def log_message(self, *_): pass
    def address_string(self): return ''
server = http.server.HTTPServer(('127.0.0.1', 443), Home, bind_and_activate=False)
server.server_name = 'home'
server.socket.bind(('127.0.0.1', 443)); server.server_activate()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.crt', 'server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print('ready', flush=True)
server.handle_request()
";

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn pain_8_the_agent_is_one_static_file_of_at_most_9_mb() {
    let folder = tempfile::tempdir().unwrap();
    unpacked(folder.path());
    let agent = folder.path().join("usr/bin/kiln-agent");
    let length = std::fs::metadata(&agent).unwrap().len();
    assert!(length <= 9_000_000, "{length} bytes");
    // No interpreter and no needed library: what `file` calls static.
    let segments = sh("readelf --program-headers --dynamic usr/bin/kiln-agent", folder.path());
    assert!(!segments.contains("INTERP") && !segments.contains("NEEDED"), "{segments}");
}

#[test]
#[ignore = "needs the lab: tests/e2e.sh"]
fn an_empty_root_is_enough_for_names_and_https() {
    let work = tempfile::tempdir().unwrap();
    let here = work.path();
    sh(
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
                 -days 2 -subj '/CN=test CA' -addext basicConstraints=critical,CA:TRUE
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr \
                 -subj '/CN={NAME}'
             printf 'subjectAltName=DNS:{NAME}\\n' >names
             openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names \
                 -out server.crt
             mkdir -p root/etc/ssl/certs root/var/lib/cloud/seed/nocloud
             cp ca.crt root/etc/ssl/certs/ca-certificates.crt
             echo nameserver 127.0.0.1 >root/etc/resolv.conf
             echo 'instance-id: i-empty' >root/var/lib/cloud/seed/nocloud/meta-data
             printf '#cloud-config\\nphone_home: {{url: https://{NAME}/, format: json, tries: 2}}\\n' \
                 >root/var/lib/cloud/seed/nocloud/user-data"
        ),
        here,
    );
    unpacked(&here.join("root"));
    let folder = here.to_owned();
    // A thread with a network of its own: its port 53 is nobody else's.
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up", &folder);
        serve_names();
        let mut server =
            Command::new("python3").args(["-c", HTTPS]).current_dir(&folder).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let boot = Command::new("chroot").args(["root", "/usr/bin/kiln-agent", "boot"]).current_dir(&folder).output();
        let boot = boot.unwrap();
        let told = lines.next();
        server.kill().unwrap();
        server.wait().unwrap();
        (boot, told)
    };
    let (boot, told) = std::thread::spawn(run).join().unwrap();
    assert_eq!(boot.status.code(), Some(0), "{}", String::from_utf8_lossy(&boot.stderr));
    let told = told.unwrap().unwrap();
    assert!(told.starts_with(&format!("{NAME} {{")) && told.contains("\"instance_id\":\"i-empty\""), "{told}");
}
