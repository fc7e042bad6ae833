//! What is mounted: lines of /etc/fstab, and the swap file.

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::Stage;
use kiln_schema::yaml::{Each, Maybe, Node, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::edit::{Pairs, must, text_or_empty};
use super::super::{Failure, Frequency, Handled, Handler, items};
use super::fstab::{self, Line};
use super::swap::{self, Swap};
use super::{Pass, block, config, names, place, read};
use crate::context::Context;
use crate::system::FileOptions;

const FSTAB: &str = "/etc/fstab";
/// cloud-init's own. Its unit is none of this agent's, and systemd passes over the name of a unit that is
/// not there: the agent mounts at the first boot by itself, and later ones need no order.
const OPTIONS: &str = "defaults,nofail,x-systemd.after=cloud-init-network.service,_netdev";

/// Mounts disks.
pub struct Mounts;

/// Keys of what is mounted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Lines of /etc/fstab, each a list of up to six fields: device, mount point, kind, options, dump, pass.
    /// A field that is null or lacks has its default. Without a mount point the device is not mounted.
    mounts: Each<Vec<Option<String>>>,
    /// The six defaults; null, null, `auto`, options with `nofail`, 0 and 2 without the key.
    mount_default_fields: Option<Vec<Maybe<String>>>,
    /// A swap file.
    swap: Option<Swap>,
    /// Names for disks, for `disk_setup`, `fs_setup` and `mounts`.
    device_aliases: Pairs,
}

impl Handler for Mounts {
    const NAME: &'static str = "mounts";
    const SUMMARY: &'static str = "Mounts disks, and makes a swap file";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let finding = |node: &Node, path: &str, message: &str| node.diagnostic(Severity::Warning, path, message);
        let rows = items(config, "mounts").iter().enumerate().filter_map(|(index, row)| {
            let path = format!("mounts[{index}]");
            match &row.value {
                Value::List(fields) if fields.len() > 6 => Some(finding(row, &path, "a line has six fields at most")),
                Value::Scalar(_) => Some(finding(row, &path, "a list of fields is expected here, the device first")),
                _ => None,
            }
        });
        let defaults = config.get("mount_default_fields").filter(|node| !node.is_null());
        let defaults = defaults.filter(|node| !matches!(&node.value, Value::List(fields) if fields.len() == 6));
        let defaults = defaults.map(|node| {
            finding(node, "mount_default_fields", "six fields are expected here; those of the agent are used")
        });
        let swap = config.get("swap").map(swap::check).unwrap_or_default();
        rows.chain(defaults).chain(swap).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let tree = context.config.clone();
        let mut pass = Pass::default();
        let mut lines: Vec<(String, Line)> = Vec::new();
        let old = text_or_empty(&context.system, FSTAB)?;
        let others = fstab::others(&old);
        let defaults = defaults(config);
        for (index, row) in items(&tree, "mounts").iter().enumerate() {
            let place = place(&format!("mounts[{index}]"), row);
            let resolved = read(row).and_then(|fields| resolve(context, config, &defaults, fields));
            match resolved {
                Err(failure) => pass.note(&place, Err(failure)),
                // A device alone takes back what stands before it.
                Ok(Resolved::Unmounted(source)) => lines.retain(|(_, line)| line.source() != source),
                Ok(Resolved::Line(line)) if others.contains(&line.source()) => {
                    let done = json!({"device": line.source(), "changed": false, "why": "/etc/fstab has it already"});
                    pass.note(&place, Ok(done));
                }
                Ok(Resolved::Line(line)) => lines.push((place, line)),
            }
        }
        match config.swap.as_ref().map(|swap| swap::make(context, swap)) {
            Some(Ok(Some(file))) => {
                let fields = [&file, "none", "swap", "sw", "0", "0"];
                lines.push(("swap".to_owned(), Line(fields.map(str::to_owned))));
            }
            Some(Err(failure)) => pass.note("swap", Err(failure)),
            Some(Ok(None)) | None => {}
        }
        // A swap file may have a line of the image's, and be made only now.
        let own = lines.iter().map(|(_, line)| line).filter(|line| !others.contains(&line.source()));
        let own: Vec<Line> = own.cloned().collect();
        let new = fstab::with(&old, &own);
        if new != old {
            context.system.write(FSTAB, new, FileOptions::default().durable())?;
            reload(context);
        }
        for (place, line) in &lines {
            pass.note(place, activate(context, line));
        }
        pass.outcome("nothing is to be mounted")
    }
}

/// systemd reads the file once, and mount(8) warns while it knows the old one.
fn reload(context: &Context) {
    if context.system.exists("/run/systemd/system") {
        // Without it the line counts from the next boot on.
        let _ = context.run(&context.command("systemctl").arg("daemon-reload"));
    }
}

/// A row of the user-data as a line of /etc/fstab.
#[derive(Debug, PartialEq)]
enum Resolved {
    Line(Line),
    Unmounted(String),
}

/// The defaults of the six fields. `None` is text to YAML, and what cloud-init's own examples write for null.
fn defaults(config: &Config) -> [Option<String>; 6] {
    let own = [None, None, Some("auto"), Some(OPTIONS), Some("0"), Some("2")].map(|field| field.map(str::to_owned));
    let given = config.mount_default_fields.iter().flatten().map(|field| field.0.clone()).collect::<Vec<_>>();
    let given = <[Option<String>; 6]>::try_from(given).ok();
    given.map_or(own, |fields| fields.map(|field| field.filter(|text| text != "None")))
}

fn resolve(
    context: &Context,
    keys: &Config,
    defaults: &[Option<String>; 6],
    row: Vec<Option<String>>,
) -> Result<Resolved, Failure> {
    if row.len() > 6 {
        return Err(config(format!("it has {} fields, and a line of /etc/fstab has six", row.len())));
    }
    let mut fields = defaults.clone();
    for (field, given) in fields.iter_mut().zip(row) {
        *field = given.or_else(|| field.take());
    }
    let [device, mount_point, kind, options, dump, pass] = fields;
    let device = device.filter(|name| !name.is_empty()).ok_or_else(|| config("it names no device"))?;
    let kind = kind.unwrap_or_else(|| "auto".to_owned());
    let found = source(context, &keys.device_aliases, &device, &kind);
    let Some(mount_point) = mount_point else {
        // What is not there is not mounted.
        return Ok(Resolved::Unmounted(found.unwrap_or(device)));
    };
    if !mount_point.starts_with('/') && mount_point != "none" && kind != "swap" {
        return Err(config(format!("the mount point `{mount_point}` is not absolute")));
    }
    let options = options.unwrap_or_else(|| "defaults".to_owned());
    let (dump, pass) = (dump.unwrap_or_else(|| "0".to_owned()), pass.unwrap_or_else(|| "0".to_owned()));
    if [&dump, &pass].iter().any(|field| field.parse::<u8>().is_err()) {
        return Err(config("the fifth and sixth field are numbers"));
    }
    Ok(Resolved::Line(Line([found?, mount_point, kind, options, dump, pass])))
}

/// What stands first in the line: the device that a name means, or what needs none, as it is.
fn source(context: &Context, aliases: &Pairs, name: &str, kind: &str) -> Result<String, Failure> {
    let is_alias = |name: &str| aliases.0.iter().any(|(alias, _)| alias == name);
    let (disk, number) = match names::split(name) {
        _ if context.system.exists(name) && name.starts_with('/') => (name, None),
        split => split,
    };
    let is_remote = name.contains(':') || name.contains('=') || name.starts_with("//");
    let is_other_path = name.starts_with('/') && !name.starts_with("/dev/");
    // A swap partition is a device; a tmpfs is none, whatever it is called.
    let needs_none = !matches!(kind, "auto" | "swap" | "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "vfat" | "ntfs");
    if !is_alias(disk) && (is_remote || is_other_path || (needs_none && !name.starts_with("/dev/"))) {
        let known = if needs_none { names::path(context, aliases, disk).is_ok() } else { false };
        if !known {
            return Ok(name.to_owned());
        }
    }
    let path = names::path(context, aliases, disk)?;
    let partition = |number| names::partition(context, &path, number);
    let Some(number) = number else {
        names::device(context, &path)?;
        // The name of a whole disk means its first partition, where it has one.
        return Ok(partition(1).unwrap_or(path));
    };
    if partition(number).is_none() {
        names::settle(context);
    }
    partition(number)
        .ok_or_else(|| config(format!("{path} has no partition {number}; is it attached and partitioned?")))
}

/// Mounts a line now, or swaps to it, unless that is so already.
fn activate(context: &Context, line: &Line) -> Result<Json, Failure> {
    let system = &context.system;
    let done = |changed: bool| Ok(json!({"device": line.source(), "place": line.place(), "changed": changed}));
    if line.has("noauto") {
        return done(false);
    }
    let install = "install the package mount into the image";
    if line.kind() == "swap" {
        let swaps = system.read_text("/proc/swaps").unwrap_or_default();
        let active = |path: &str| swaps.lines().any(|swap| swap.split_whitespace().next() == Some(path));
        let device = block::Block::at(system, line.source()).map(|block| block.path());
        if active(line.source()) || device.is_some_and(|path| active(&path)) {
            return done(false);
        }
        must(context, &context.command("swapon").arg(line.source()), install)?;
        return done(true);
    }
    if !line.place().starts_with('/') {
        return done(false);
    }
    let (source, place) = (line.source(), line.place());
    system.make_dir(place, 0o755, None)?;
    // The kernel tells places without the links that lead there.
    let resolved = system.resolved(place);
    let is_there = |mount: &block::Mount| mount.place == resolved;
    if let Some(mount) = block::mounts(system).into_iter().rfind(is_there) {
        return match (mount.block(system), block::Block::of_source(system, source)) {
            (Some(other), Some(own)) if other != own => Err(config(format!(
                "{} is mounted at {place}, and not {source}; unmount it, or give {source} a place of its own",
                other.path()
            ))),
            _ => done(false),
        };
    }
    must(context, &context.command("mount").arg(place), install)?;
    // With `nofail`, mount says nothing of a device that is not there.
    let mounts = block::mounts(system);
    if !mounts.is_empty() && !mounts.iter().any(is_there) {
        return Err(config(format!("{source} is not there, so nothing is mounted at {place}; attach the disk")));
    }
    done(true)
}

#[cfg(test)]
mod tests {
    use super::super::block::fake;
    use super::*;
    use crate::handlers::Outcome;
    use crate::testing;

    const MARK: &str = ",comment=cloudconfig";

    struct Ran {
        _tree: tempfile::TempDir,
        context: Context,
        handled: Handled,
    }

    impl Ran {
        fn text(&self, path: &str) -> String {
            self.context.system.read_text(path).unwrap_or_default()
        }
    }

    /// Runs on a machine with one disk of two partitions and this /etc/fstab.
    fn run(keys: &str, fstab: &str) -> Option<Ran> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = testing::machine(tree.path(), &["/usr/bin/dash"], keys)?;
        let system = context.system.clone();
        if !fake::disk(&system, &[(1, 2048, 100_000), (2, 102_048, 100_000)]) {
            return None;
        }
        for name in ["mount", "swapon", "systemctl"] {
            let script = format!("#!/usr/bin/dash\necho \"{name} $*\" >> /said\n[ \"$1\" != /bad ] || exit 32\n");
            testing::executable(&system, format!("/usr/bin/{name}"), script);
        }
        let table = "[ \"$1\" = /missing ] || echo \"40 27 0:9 / $1 rw - x x rw\" >> /proc/self/mountinfo\n";
        let mount = system.read_text("/usr/bin/mount").unwrap() + table;
        testing::executable(&system, "/usr/bin/mount", mount);
        system.write("/proc/self/mountinfo", "27 1 0:5 / / rw - overlay o rw\n", FileOptions::default()).unwrap();
        system.write(FSTAB, fstab, FileOptions::mode(0o640)).unwrap();
        system.make_dir("/run/systemd/system", 0o755, None).unwrap();
        let handled = context.run_handler::<Mounts>();
        Some(Ran { _tree: tree, context, handled })
    }

    #[test]
    fn rows_become_lines_with_the_defaults_filled_in_and_are_mounted() {
        for (row, line) in [
            ("[vdx1, /a]", format!("/dev/vdx1\t/a\tauto\t{OPTIONS}{MARK}\t0\t2\n")),
            ("[/dev/vdx, /a, ext4]", format!("/dev/vdx1\t/a\text4\t{OPTIONS}{MARK}\t0\t2\n")),
            ("[data.2, /a, ~, 'noatime', '1']", format!("/dev/vdx2\t/a\tauto\tnoatime{MARK}\t1\t2\n")),
            ("['LABEL=x', /a, xfs, defaults, 0, 0]", format!("LABEL=x\t/a\txfs\tdefaults{MARK}\t0\t0\n")),
            ("['10.0.0.1:/srv', /a, nfs]", format!("10.0.0.1:/srv\t/a\tnfs\t{OPTIONS}{MARK}\t0\t2\n")),
            ("[tmpfs, /a, tmpfs, size=1m]", format!("tmpfs\t/a\ttmpfs\tsize=1m{MARK}\t0\t2\n")),
            ("[/srv, /a, none, bind]", format!("/srv\t/a\tnone\tbind{MARK}\t0\t2\n")),
        ] {
            let keys = format!("device_aliases: {{data: /dev/vdx}}\nmounts:\n- {row}\n");
            let Some(mut ran) = run(&keys, "# theirs\n") else { return };
            assert!(matches!(ran.handled, Ok(Outcome::Ok(_))), "{row}: {:?}", ran.handled);
            assert_eq!(ran.text(FSTAB), format!("# theirs\n{line}"), "{row}");
            assert_eq!(ran.text("/said"), "systemctl daemon-reload\nmount /a\n", "{row}");
            assert!(ran.context.system.exists("/a"));
            ran.context.run_handler::<Mounts>().unwrap();
            assert_eq!(ran.text("/said"), "systemctl daemon-reload\nmount /a\n", "{row}: a second run does nothing");
        }
    }

    #[test]
    fn a_row_that_cannot_be_is_told_and_stops_no_other() {
        for (row, sentence) in [
            ("[/dev/vdz, /b]", "mounts[1] (line 3): /dev/vdz is not there"),
            ("[/dev/null, /b]", "/dev/null is no disk"),
            ("[vdx.7, /b]", "/dev/vdx has no partition 7"),
            ("[dd, /b]", "no disk has the name `dd`"),
            ("[ephemeral0, /b]", "no disk has the name `ephemeral0`"),
            ("[vdx2, b]", "the mount point `b` is not absolute"),
            ("[1, 1, 1, 1, 1, 1, 1]", "it has 7 fields"),
            ("[vdx2, /b, auto, defaults, zero]", "the fifth and sixth field are numbers"),
            ("[~, /b]", "it names no device"),
            ("{vdx2: /b}", "mounts[1] (line 3): expected"),
            ("['LABEL=x', /missing]", "LABEL=x is not there, so nothing is mounted at /missing"),
            ("[vdx2, /bad]", "mounts[1] (line 3): mount exited 32"),
        ] {
            let keys = format!("mounts:\n- [vdx1, /a]\n- {row}\n- ['LABEL=c', /c]\n");
            let Some(ran) = run(&keys, "") else { return };
            let failure = ran.handled.as_ref().unwrap_err();
            assert!(failure.message.contains(sentence), "{row}: {}", failure.message);
            let said = ran.text("/said");
            assert!(said.contains("mount /a\n") && said.contains("mount /c\n"), "{row}: {said}");
            assert!(!ran.text(FSTAB).contains("/b\t"), "{row}");
        }
    }

    #[test]
    fn lines_of_others_win_and_own_ones_are_written_anew() {
        let theirs = "/dev/vdx1   /data ext4 defaults 0 2";
        let old = format!("{theirs}\n/dev/vdy1\t/old\tauto\tdefaults{MARK}\t0\t2\n");
        let Some(ran) = run("mounts: [[vdx1, /a], [vdx2, /b], [vdx2], ['LABEL=c', /c, auto, noauto]]", &old) else {
            return;
        };
        let expected = format!("{theirs}\nLABEL=c\t/c\tauto\tnoauto{MARK}\t0\t2\n");
        assert_eq!(ran.text(FSTAB), expected);
        assert_eq!(ran.text("/said"), "systemctl daemon-reload\n");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(ran.context.system.metadata(FSTAB).unwrap().mode() & 0o777, 0o640);
        let Some(ran) = run("mounts: [[/dev/none]]", "a b c d\n") else { return };
        assert_eq!((ran.text(FSTAB).as_str(), ran.text("/said").as_str()), ("a b c d\n", ""));
    }

    #[test]
    fn the_default_fields_are_the_users_and_their_none_is_null() {
        let fields = "mount_default_fields: [None, None, auto, 'defaults,nofail', '0', '1']";
        let Some(ran) = run(&format!("{fields}\nmounts: [[vdx1, /a], [vdx2]]"), "") else { return };
        assert_eq!(ran.text(FSTAB), format!("/dev/vdx1\t/a\tauto\tdefaults,nofail{MARK}\t0\t1\n"));
        let (config, _) =
            kiln_schema::yaml::parse("x", "mount_default_fields: [a]\nmounts: [vdx1, [1,2,3,4,5,6,7]]").unwrap();
        let told: Vec<String> = Mounts::check(&config).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn swap_is_a_line_and_is_used() {
        let Some(ran) = run("mounts: [[vdx2, none, swap, sw, '0', '0']]", "") else { return };
        assert_eq!(ran.text(FSTAB), format!("/dev/vdx2\tnone\tswap\tsw{MARK}\t0\t0\n"));
        assert_eq!(ran.text("/said"), "systemctl daemon-reload\nswapon /dev/vdx2\n");
        let Some(mut ran) = run("swap: {size: 1M}", "") else { return };
        // Without mkswap there is no swap file, and no line for one.
        assert!(ran.handled.as_ref().unwrap_err().message.starts_with("swap: "), "{:?}", ran.handled);
        assert_eq!(ran.text(FSTAB), "");
        let mut file = vec![0; 1 << 20];
        file[4086..4096].copy_from_slice(b"SWAPSPACE2");
        ran.context.system.write("/swap.img", file, FileOptions::mode(0o600)).unwrap();
        ran.context.run_handler::<Mounts>().unwrap();
        assert_eq!(ran.text(FSTAB), format!("/swap.img\tnone\tswap\tsw{MARK}\t0\t0\n"));
        ran.context.system.write("/proc/swaps", "Filename\n/swap.img file 1 0 -2\n", FileOptions::default()).unwrap();
        let before = ran.text("/said");
        ran.context.run_handler::<Mounts>().unwrap();
        assert_eq!(ran.text("/said"), before);
    }

    #[test]
    fn what_is_mounted_is_seen_at_the_root_and_through_links_and_another_disk_is_told() {
        let Some(ran) = run("mounts: [['LABEL=root', /, auto]]", "") else { return };
        assert!(ran.handled.is_ok() && !ran.text("/said").contains("mount"), "{:?} {}", ran.handled, ran.text("/said"));
        let Some(mut ran) = run("mounts: [[vdx1, /a]]", "") else { return };
        let system = ran.context.system.clone();
        system.make_dir("/srv/far", 0o755, None).unwrap();
        system.link("/near", "/srv/far").unwrap();
        // The kernel's table has the place without links.
        let script = "#!/usr/bin/dash\necho \"mount $*\" >> /said\n\
            echo '40 27 240:2 / /srv/far/x rw - ext4 /dev/vdx2 rw' >> /proc/self/mountinfo\n";
        testing::executable(&system, "/usr/bin/mount", script);
        let mut linked = Context::for_test(system.root(), "mounts: [[vdx2, /near/x]]");
        linked.run_handler::<Mounts>().unwrap();
        assert!(ran.text("/said").ends_with("mount /near/x\n"), "{}", ran.text("/said"));
        linked.run_handler::<Mounts>().unwrap();
        assert_eq!(ran.text("/said").matches("mount /near/x").count(), 1);
        ran.context = Context::for_test(system.root(), "mounts: [[vdx1, /near/x], ['LABEL=c', /near/x]]");
        system.link("/dev/disk/by-label/c", "../../vdx2").unwrap();
        let failure = ran.context.run_handler::<Mounts>().unwrap_err();
        let sentence = "mounts[0] (line 1): /dev/vdx2 is mounted at /near/x, and not /dev/vdx1; ";
        assert!(failure.message.starts_with(sentence) && !failure.message.contains("mounts[1]"), "{}", failure.message);
    }

    #[test]
    fn a_swap_file_that_lacks_for_a_line_of_the_images_is_switched_on() {
        let Some(mut ran) = run("swap: {size: 1M}", "/swap.img none swap sw 0 0\n") else { return };
        let mut file = vec![0; 1 << 20];
        file[4086..4096].copy_from_slice(b"SWAPSPACE2");
        ran.context.system.write("/swap.img", file, FileOptions::mode(0o600)).unwrap();
        ran.context.run_handler::<Mounts>().unwrap();
        assert_eq!(ran.text("/said"), "swapon /swap.img\n");
        assert_eq!(ran.text(FSTAB), "/swap.img none swap sw 0 0\n");
    }
}
