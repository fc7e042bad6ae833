//! Having the machine see its new files.

use std::time::Duration;

use kiln_schema::status::{Reason, Stage};

use super::super::Failure;
use super::super::edit::must;
use crate::context::Context;
use crate::network::Link;
use crate::network::machine::{self, Nic, Renderer};
use crate::system::Command;

/// How long is waited for the drivers of interfaces.
const DRIVERS: Duration = Duration::from_secs(10);
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
    let ip = |old: &str, new: &str| {
        let command = context.command("ip").args(["link", "set", "dev", old, "name", new]);
        must(context, &command, "install iproute2 in the image").map(|_| ())
    };
    // Two that change places go by way of a third name.
    for (index, (old, new)) in moves.iter_mut().enumerate() {
        if nics.iter().any(|nic| nic.name == *new) {
            let between = format!("kiln{index}");
            ip(old, &between)?;
            *old = between;
        }
    }
    moves.iter().try_for_each(|(old, new)| ip(old, new))
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
        (Renderer::Ifupdown, _) => run("ifup", &["-a"]),
    }
}
