//! Having the machine see its new files.

use std::time::Duration;

use kiln_schema::status::{Reason, Stage};

use super::super::Failure;
use super::super::edit::{must, text_or_empty};
use crate::context::Context;
use crate::network::machine::{self, Nic, Renderer};
use crate::network::{File, Link, ifupdown};
use crate::system::Command;

/// How long is waited for the drivers of interfaces.
const DRIVERS: Duration = Duration::from_secs(10);
/// Of ifupdown2: brings what runs in line with the files, and leaves what is in line alone.
const RELOAD: &str = "ifreload";
/// What interfaces are behind.
const BUSES: [&str; 4] = ["pci", "virtio", "xen", "vmbus"];

/// The machine's interfaces. This early their drivers may still lack, and udev is asked for those then.
pub fn found(context: &Context) -> Vec<Nic> {
    let nics = machine::nics(&context.system);
    if !context.system.is_live() || !machine::may_come(&context.system, &nics) {
        return nics;
    }
    let buses = BUSES.iter().map(|bus| format!("--subsystem-match={bus}"));
    let command =
        Command::new("udevadm", DRIVERS.min(context.time_left())).args(["trigger", "--action=add", "--settle"]);
    if let Err(error) = context.run(&command.args(buses)) {
        tracing::warn!("the drivers of network interfaces were not waited for: {error}");
    }
    machine::nics(&context.system)
}

/// Gives interfaces their names now: udev, which has the files for it, saw them before these were there.
pub fn rename(context: &Context, links: &[Link], nics: &[Nic], stage: Stage) -> Result<(), Failure> {
    // An interface in use cannot be renamed. It has its name after the next start.
    if stage != Stage::Local || !context.system.is_live() {
        return Ok(());
    }
    let mut moves: Vec<(String, String)> = Vec::new();
    for link in links.iter().filter(|link| link.renamed) {
        let nic = nics.iter().find(|nic| link.matches.fits(nic) && !nic.is_up);
        moves.extend(nic.filter(|nic| nic.name != link.name).map(|nic| (nic.name.clone(), link.name.clone())));
    }
    move_all(moves, nics, |old, new| {
        let command = context.command("ip").args(["link", "set", "dev", old, "name", new]);
        must(context, &command, "install iproute2 in the image").map(|_| ())
    })
}

/// Renames by `ip`, all or none: a name in between is nobody's configuration.
fn move_all(
    moves: Vec<(String, String)>,
    nics: &[Nic],
    mut ip: impl FnMut(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut steps, mut last) = (Vec::new(), Vec::new());
    // Two that change places go by way of a third name.
    for (index, (old, new)) in moves.into_iter().enumerate() {
        if nics.iter().any(|nic| nic.name == new) {
            let between = format!("kiln{index}");
            steps.push((old, between.clone()));
            last.push((between, new));
        } else {
            last.push((old, new));
        }
    }
    steps.extend(last);
    for (index, (old, new)) in steps.iter().enumerate() {
        let Err(failure) = ip(old, new) else { continue };
        for (old, new) in steps[..index].iter().rev() {
            if let Err(error) = ip(new, old) {
                tracing::error!("the interface {old} stays {new}: {}", error.message);
            }
        }
        return Err(failure);
    }
    Ok(())
}

/// Takes down those interfaces that ifupdown has up and that are to come up otherwise, while the file by which
/// they came up is still there. Those that ask DHCP and are to ask DHCP go on working. Gives what it took down.
pub fn take_down(
    context: &Context,
    renderer: Renderer,
    stage: Stage,
    files: &[File],
    links: &[Link],
    nics: &[Nic],
) -> Result<Vec<String>, Failure> {
    let system = &context.system;
    let file = files.iter().find(|file| file.path == ifupdown::FILE);
    let (Renderer::Ifupdown, Some(file)) = (renderer, file) else { return Ok(Vec::new()) };
    // Before the network nothing is up, and ifreload(8) compares for itself.
    if stage == Stage::Local || system.has_program(RELOAD) {
        return Ok(Vec::new());
    }
    let state = text_or_empty(system, "/run/network/ifstate")?;
    let is_up = |name: &str| state.lines().any(|line| line.split('=').next() == Some(name));
    let is_more = |name: &str| {
        links.iter().any(|link| link.is_more_than_usual() && link.names(nics).iter().any(|own| own == name))
    };
    let old = text_or_empty(system, ifupdown::FILE)?;
    let changed = ifupdown::changed(&old, &file.text).into_iter().filter(|name| is_up(name) && is_more(name));
    let down: Vec<String> = changed.map(str::to_owned).collect();
    if !down.is_empty()
        && let Err(failure) = must(context, &context.command("ifdown").args(down.iter().cloned()), "install ifupdown")
    {
        let _ = bring_up(context, &down);
        return Err(failure);
    }
    Ok(down)
}

/// Brings up interfaces that were taken down, by the files that are there now.
pub fn bring_up(context: &Context, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    must(context, &context.command("ifup").args(names.iter().cloned()), "install ifupdown").map(drop)
}

/// Has the program see its files.
pub fn take_up(context: &Context, renderer: Renderer, stage: Stage) -> Result<(), Failure> {
    let run = |program: &str, args: &[&str]| {
        let command = context.command(program).args(args.iter().copied());
        must(context, &command, "its files are written and count from the next start on").map(|_| ())
    };
    let netplan = |verb: &str| {
        let finished = context.run(&context.command("netplan").args([verb]))?;
        if finished.success() {
            return Ok(());
        }
        // Around the line that says it, netplan shows the document, in which passwords may stand.
        let said = finished.last_lines(20).into_iter().find(|line| line.contains("/etc/netplan/"));
        let said = said.map_or_else(String::new, |line| format!(": {}", line.trim()));
        Err(Failure::new(Reason::CommandFailed, format!("netplan {verb} {}{said}", finished.ending())))
    };
    match (renderer, stage) {
        // Netplan's generator ran when the machine started, and before the files were there.
        (Renderer::Netplan, Stage::Local) => netplan("generate"),
        (Renderer::Netplan, _) => netplan("apply"),
        (Renderer::Networkd, _) if !machine::networkd_is_on(&context.system) => {
            run("systemctl", &["enable", "systemd-networkd.service"])?;
            // This stage is one that it waits for.
            run("systemctl", &["start", "--no-block", "systemd-networkd.service"])
        }
        // They start after this stage and read the files then.
        (Renderer::Networkd | Renderer::Ifupdown, Stage::Local) => Ok(()),
        (Renderer::Networkd, _) => run("networkctl", &["reload"]),
        (Renderer::Ifupdown, _) if context.system.has_program(RELOAD) => run(RELOAD, &["-a"]),
        (Renderer::Ifupdown, _) => run("ifup", &["-a"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, last: u8) -> Nic {
        let mac = format!("52:54:00:00:00:{last:02x}");
        Nic { name: name.to_owned(), mac, driver: String::new(), is_up: false, is_real: true }
    }

    /// The names of interfaces after `ip` has refused to give any the name `refused`.
    fn renamed(moves: &[(&str, &str)], names: &[&str], refused: &str) -> (Vec<String>, Result<(), Failure>) {
        let nics: Vec<Nic> = names.iter().zip(0..).map(|(name, last)| nic(name, last)).collect();
        let mut now: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let moves = moves.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        let mut refusals = 0;
        let done = move_all(moves, &nics, |old, new| {
            let is_refused = new == refused && refusals == 0;
            if is_refused || now.iter().any(|name| name == new) {
                refusals += 1;
                return Err(Failure::new(Reason::CommandFailed, format!("{new}: File exists")));
            }
            let nic = now.iter_mut().find(|name| *name == old).unwrap();
            new.clone_into(nic);
            Ok(())
        });
        (now, done)
    }

    #[test]
    fn interfaces_change_their_names_and_keep_them_all_where_one_is_refused() {
        let swap = [("eth0", "eth1"), ("eth1", "eth0")];
        let names = ["eth0", "eth1", "eth2"];
        let (now, done) = renamed(&swap, &names, "");
        assert!(done.is_ok());
        assert_eq!(now, ["eth1", "eth0", "eth2"]);
        for refused in ["eth0", "eth1", "kiln0", "kiln1"] {
            let (now, done) = renamed(&swap, &names, refused);
            assert!(done.unwrap_err().message.contains("File exists"), "{refused}");
            assert_eq!(now, names, "{refused}");
        }
        // Its name is another's that stays.
        let (now, done) = renamed(&[("eth0", "eth2")], &names, "");
        assert!(done.is_err());
        assert_eq!(now, names);
    }
}
