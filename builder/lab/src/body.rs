//! A booted machine: systemd-nspawn on the mounted tree of an instance.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::libc;
use tokio::net::UnixDatagram;
use tokio::process::Child;
use tokio::time::{Instant, sleep_until};

use crate::error::{Doing, Result};
use crate::images::{Stack, options};
use crate::net::{self, GATEWAY};
use crate::paths::Paths;
use crate::state::Instance;
use crate::system::pids::Identity;
use crate::system::{cgroup, files, mounts, process};
use crate::{moto, reap};

/// How long a machine may take to power off before it is switched off.
const PATIENCE: Duration = Duration::from_secs(60);
/// systemd in the machine is deaf to signals while it starts, so an order is repeated this often.
const REPEAT: Duration = Duration::from_secs(1);

/// Something a machine tells by itself.
#[derive(Debug)]
pub enum Event {
    /// Its first process runs, for the first time or after a reboot.
    Started(Identity),
    /// It has finished booting.
    Up,
    /// It is off.
    Ended(ExitStatus),
}

/// A machine that runs.
#[derive(Debug)]
pub struct Body {
    supervisor: Child,
    notices: UnixDatagram,
    leader: Option<Identity>,
    pending: Vec<Event>,
}

/// Mounts an instance's tree where its machine will run, and makes its folders.
///
/// # Errors
/// When the kernel refuses the mount.
pub fn mount(paths: &Paths, instance: &str, stack: &Stack) -> Result<()> {
    let root = paths.root(instance);
    let doing = || format!("cannot mount the disk of {instance} at {}", root.display());
    for folder in ["root", "upper", "work"] {
        files::make_dir(&paths.machine(instance).join(folder), 0o755).doing(doing)?;
    }
    mounts::unmount(&root).doing(doing)?;
    mounts::overlay(&paths.layers(), &options(stack, instance)?, &root).doing(doing)
}

/// The control group of a machine.
///
/// # Errors
/// When this machine has no unified tree of control groups.
pub fn group(paths: &Paths, instance: &str) -> Result<PathBuf> {
    Ok(reap::groups(paths)?.join(instance))
}

impl Body {
    /// Boots an instance on its mounted tree.
    ///
    /// # Errors
    /// When its network, control group or supervisor cannot be made. Whether it boots is told by
    /// [`Body::event`].
    pub fn start(paths: &Paths, instance: &Instance) -> Result<Body> {
        let id = &instance.id;
        let doing = || format!("cannot start the machine of {id}");
        net::make_machine(paths, instance)?;
        let group = group(paths, id)?;
        cgroup::remove(&group).doing(doing)?;
        files::make_dir(&group, 0o755).doing(doing)?;
        let socket = paths.notify_socket(id);
        files::remove(&socket).doing(doing)?;
        let notices = UnixDatagram::bind(&socket).doing(doing)?;
        let console = files::open_log(&paths.consoles().join(id)).doing(doing)?;
        let environment =
            [("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", OsStr::new("1")), ("NOTIFY_SOCKET", socket.as_os_str())];
        let supervisor = process::machine(&command(paths, instance, group), &environment, console).doing(doing)?;
        Ok(Body { supervisor, notices, leader: None, pending: Vec::new() })
    }

    /// Its first process, once it runs.
    pub fn leader(&self) -> Option<Identity> {
        self.leader
    }

    /// Waits for what the machine does next. Can be dropped and asked again.
    pub async fn event(&mut self) -> Event {
        let mut datagram = [0; 4096];
        loop {
            if let Some(event) = self.pending.pop() {
                return event;
            }
            tokio::select! {
                biased;
                Ok(length) = self.notices.recv(&mut datagram) => {
                    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                    self.pending = notices(&text, self.leader);
                    if let Some(Event::Started(leader)) = self.pending.last() {
                        self.leader = Some(*leader);
                    }
                }
                status = self.supervisor.wait() => return Event::Ended(ended(status)),
            }
        }
    }

    /// Powers the machine off in order, and switches it off when that takes too long.
    pub async fn stop(mut self) {
        let end = Instant::now() + PATIENCE;
        // What systemd takes as the power button: SIGRTMIN+4.
        let power_off = libc::SIGRTMIN() + 4;
        let mut up = false;
        let mut next = Instant::now();
        while Instant::now() < end {
            if !up || next <= Instant::now() {
                match self.leader {
                    Some(leader) => drop(leader.signal_number(power_off)),
                    None => self.interrupt(),
                }
            }
            next = Instant::now() + REPEAT;
            tokio::select! {
                event = self.event() => match event {
                    Event::Ended(_) => return,
                    Event::Up => up = true,
                    Event::Started(_) => {}
                },
                () = sleep_until(next.min(end)) => {}
            }
        }
        tracing::warn!("a machine did not power off within {} s and is switched off", PATIENCE.as_secs());
        let _ = self.supervisor.kill().await;
    }

    /// Asks the machine to reboot, as its keyboard would with Ctrl-Alt-Del.
    pub fn reboot(&self) {
        if let Some(leader) = self.leader {
            leader.signal_number(libc::SIGINT);
        }
    }

    fn interrupt(&self) {
        if let Some(supervisor) = self.supervisor.id().and_then(|pid| Identity::of(pid as i32)) {
            supervisor.signal_number(libc::SIGTERM);
        }
    }
}

/// Takes down what a machine that is off leaves: processes, mount, network. Its disk stays.
///
/// # Errors
/// What the kernel refuses.
pub fn take_down(paths: &Paths, instance: &str) -> Result<()> {
    let doing = || format!("cannot take down the machine of {instance}");
    cgroup::remove(&group(paths, instance)?).doing(doing)?;
    for point in mounts::below(&paths.machine(instance)).doing(doing)? {
        mounts::unmount(&point).doing(doing)?;
    }
    files::remove(&paths.notify_socket(instance)).doing(doing)?;
    net::remove_machine(paths, instance)
}

/// Whether a machine ended to start anew: without a unit of its own, the supervisor leaves that to
/// whoever started it, and says so by this exit code.
pub fn reboots(status: ExitStatus) -> bool {
    status.code() == Some(133)
}

/// The command line that boots a machine.
fn command(paths: &Paths, instance: &Instance, group: PathBuf) -> Vec<OsString> {
    let id = &instance.id;
    // The supervisor makes groups below the one it is in, and the machine's systemd owns them: two
    // machines in one group would share a tree. So it enters its own before it begins.
    let enter = "echo 0 > \"$0/cgroup.procs\" && exec \"$@\"";
    let mut command: Vec<OsString> = vec!["/bin/sh".into(), "-c".into(), enter.into(), group.into()];
    let mut add = |part: &OsStr| command.push(part.to_owned());
    add("systemd-nspawn".as_ref());
    add("--directory".as_ref());
    add(paths.root(id).as_os_str());
    let mut network = OsString::from("--network-namespace-path=");
    network.push(paths.machine_namespace(id));
    add(&network);
    for option in [
        "--boot",
        // There is no systemd on the host to ask: neither for a name, nor for a unit.
        "--register=no",
        "--keep-unit",
        "--notify-ready=yes",
        // A terminal of its own, of which only the output is passed on: with a mere pipe there is
        // no /dev/console to write to.
        "--console=read-only",
        // The image is as it is: nothing of the host goes into it.
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--settings=no",
        "--capability=CAP_NET_ADMIN",
    ] {
        add(option.as_ref());
    }
    add(format!("--machine={id}").as_ref());
    add(format!("--setenv=AWS_ENDPOINT_URL=http://{GATEWAY}:{}", moto::PORT).as_ref());
    add(format!("--setenv=AWS_REGION={}", instance.region).as_ref());
    // What a console of EC2 shows: the units as they start.
    add("--".as_ref());
    add("--show-status=1".as_ref());
    command
}

/// The events in a notice of the supervisor, the first one last.
fn notices(text: &str, leader: Option<Identity>) -> Vec<Event> {
    let mut events = Vec::new();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => events.push(Event::Up),
            Some(("X_NSPAWN_LEADER_PID", pid)) => {
                let process = pid.parse().ok().and_then(Identity::of);
                events.extend(process.filter(|process| Some(*process) != leader).map(Event::Started));
            }
            _ => {}
        }
    }
    // Started comes before up, whatever the order of the lines.
    events.sort_by_key(|event| matches!(event, Event::Started(_)));
    events
}

fn ended(status: io::Result<ExitStatus>) -> ExitStatus {
    status.unwrap_or_else(|_| ExitStatus::from_raw(1 << 8))
}

/// Why a machine that never ran did not, in its own last words.
pub fn last_words(paths: &Paths, instance: &str) -> String {
    files::last_line(&paths.consoles().join(instance))
}

/// Freezes or copies what a machine wrote into a layer.
///
/// # Errors
/// What the file system answers.
pub fn seal(paths: &Paths, instance: &str, moved: bool, layer: &std::path::Path) -> Result<()> {
    let upper = paths.machine(instance).join("upper");
    let doing = || format!("cannot keep the disk of {instance} as an image");
    if !upper.is_dir() {
        // Nothing was written since the image before.
        return files::make_dir(layer, 0o755).doing(doing);
    }
    if moved {
        // The work folder belongs to the upper folder that goes.
        files::remove_tree(&paths.machine(instance).join("work")).doing(doing)?;
        return files::rename(&upper, layer).doing(doing);
    }
    // Whiteouts are devices and opaque folders have attributes: -a keeps both.
    let copy: [&OsStr; 5] =
        ["cp".as_ref(), "-a".as_ref(), "--reflink=auto".as_ref(), upper.as_os_str(), layer.as_os_str()];
    process::tool(&copy, "", Duration::from_secs(600)).doing(doing).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_told_once_and_before_readiness() {
        let me = std::process::id() as i32;
        let text = format!("READY=1\nSTATUS=Container running.\nX_NSPAWN_LEADER_PID={me}");
        let events = notices(&text, None);
        assert!(matches!(events[..], [Event::Up, Event::Started(Identity { pid, .. })] if pid == me));
        assert!(matches!(notices(&text, Identity::of(me))[..], [Event::Up]));
    }

    #[test]
    fn a_leader_that_is_gone_or_no_number_is_no_start() {
        for text in ["X_NSPAWN_LEADER_PID=x", "X_NSPAWN_LEADER_PID=2147483647", "STATUS=READY=1", ""] {
            assert!(notices(text, None).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_machine_gets_its_own_network_and_the_endpoint() {
        let paths = Paths::new("t").unwrap();
        let line = command(&paths, &crate::state::tests::instance("i-1"), PathBuf::from("/g"));
        let line: Vec<&str> = line.iter().map(|part| part.to_str().unwrap()).collect();
        assert_eq!(line[3], "/g");
        for part in [
            "--network-namespace-path=/run/netns/kiln-lab-t.i-1",
            "--setenv=AWS_ENDPOINT_URL=http://10.0.0.1:5000",
            "--setenv=AWS_REGION=us-east-1",
        ] {
            assert!(line.contains(&part), "{part}");
        }
    }
}
