//! Partitions of a disk, by sfdisk.

use std::fmt;

use kiln_schema::yaml::{self, Spelled};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::{Value as Json, json};

use super::super::Failure;
use super::super::edit::{Pairs, must};
use super::block::Block;
use super::setup::{Signature, wipe};
use super::{config, names};
use crate::context::Context;

const INSTALL: &str = "install sfdisk (the package fdisk) into the image";
/// Partitions begin and end at a whole number of these bytes.
const ALIGN: u64 = 1024 * 1024;

/// The partitions of a disk.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Disk {
    /// `mbr`, as without the key, or `gpt`.
    table_type: Option<String>,
    /// True: one partition. A list: each one's share in percent, or `[share, type]`; the last of an MBR
    /// takes the rest. `remove`: no partition. False, as without the key: as it is.
    layout: Layout,
    /// Make them even if the disk holds something.
    overwrite: bool,
}

/// What partitions there are to be.
#[derive(Debug, Default, PartialEq)]
enum Layout {
    #[default]
    AsItIs,
    Whole,
    Remove,
    Parts(Vec<Part>),
}

/// A partition: its share of the disk in percent, and its type.
#[derive(Debug, PartialEq)]
struct Part(f64, Option<String>);

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Layout;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false, `remove`, or a list of percentages")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Layout, E> {
                Ok(Layout::AsItIs)
            }

            fn visit_bool<E: de::Error>(self, whole: bool) -> Result<Layout, E> {
                Ok(if whole { Layout::Whole } else { Layout::AsItIs })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Layout, E> {
                if word.eq_ignore_ascii_case("remove") {
                    return Ok(Layout::Remove);
                }
                Err(E::invalid_value(de::Unexpected::Other("a word"), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Layout, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Layout::Parts(parts))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Part;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a percentage, or a list of one and a partition type")
            }

            /// A lone percentage is a list of one to the reader.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part, A::Error> {
                let share: Option<f64> = seq.next_element()?;
                let kind: Option<Spelled> = seq.next_element()?;
                match (share, seq.next_element::<String>()?) {
                    (Some(share), None) => Ok(Part(share, kind.map(|kind| kind.0))),
                    _ => Err(de::Error::invalid_length(0, &self)),
                }
            }
        }
        // A lone share is no mistake.
        struct Read(Part);
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_seq(Pair).map(Read)
            }
        }
        yaml::tolerant(deserializer).map(|Read(part)| part)
    }
}

impl JsonSchema for Layout {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Layout".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "true, false, `remove`, or a list of percentages, each alone or with a type",
            "type": ["boolean", "string", "array", "null"],
            "items": {"type": ["number", "array"], "items": {"type": ["number", "string"]}}})
    }
}

/// What can be said of an entry without the disk.
///
/// # Errors
/// What is wrong with it.
pub fn check(disk: &Disk) -> Result<(), Failure> {
    let label = label_of(disk)?;
    match &disk.layout {
        // On so large a disk any share is large enough.
        Layout::Parts(parts) => script(label, parts, 1 << 62).map(drop),
        _ => Ok(()),
    }
}

fn label_of(disk: &Disk) -> Result<&'static str, Failure> {
    match disk.table_type.as_deref().map(str::to_lowercase).as_deref() {
        None | Some("mbr" | "dos") => Ok("dos"),
        Some("gpt") => Ok("gpt"),
        Some(other) => Err(config(format!("table_type: `{other}` is none of mbr and gpt"))),
    }
}

/// Gives a disk its partitions, unless it has them.
///
/// # Errors
/// What the disk holds, or who uses it, where that forbids it.
pub fn make(context: &Context, aliases: &Pairs, name: &str, disk: &Disk) -> Result<Json, Failure> {
    let label = label_of(disk)?;
    let path = names::path(context, aliases, name)?;
    let done = |what: &str| Ok(json!({"disk": path, "partitions": what}));
    if disk.layout == Layout::AsItIs {
        return done("as they were");
    }
    let device = names::device(context, &path)?;
    if device.parent(&context.system).is_some() {
        return Err(config(format!("{path} is a partition; name the disk")));
    }
    let table = Table::of(context, &path)?;
    let bytes = device.bytes(&context.system);
    let script = match &disk.layout {
        Layout::Remove => String::new(),
        Layout::Parts(parts) => script(label, parts, bytes)?,
        _ => script(label, &[Part(100.0, None)], bytes)?,
    };
    let wanted = script.lines().filter(|line| line.starts_with("size=")).count();
    let is_so = match (&disk.layout, &table) {
        (Layout::Whole, Some(table)) => !table.kinds.is_empty(),
        (Layout::Parts(parts), Some(table)) => table.matches(label, parts),
        (Layout::Remove, table) => table.is_none() && Signature::of(context, &path)?.held().is_none(),
        _ => false,
    };
    if is_so {
        make_known(context, &device, table.map_or(0, |table| table.kinds.len()))?;
        return done("as they were");
    }
    if !disk.overwrite
        && let Some(held) = Signature::of(context, &path)?.held()
    {
        return Err(config(format!(
            "{path} holds {held}, and nothing was changed; `overwrite: true` would destroy it"
        )));
    }
    if let Some(user) = device.user(&context.system) {
        return Err(config(format!("{path} is in use ({user}), and nothing was changed; name a disk that is not")));
    }
    if disk.layout == Layout::Remove {
        for partition in device.partitions(&context.system) {
            wipe(context, &partition.path())?;
        }
        wipe(context, &path)?;
        // What the kernel has forgotten by itself is no failure of this.
        let _ = context.run(&context.command("partx").args(["--delete", &path]));
        return done("removed");
    }
    let wiping = ["--quiet", "--wipe", "always", "--wipe-partitions", "always", &path].map(str::to_owned);
    must(context, &context.command("sfdisk").args(wiping).input(script), INSTALL)?;
    make_known(context, &device, wanted)?;
    done("made")
}

/// Has the kernel and udev know the partitions of a table.
fn make_known(context: &Context, device: &Block, wanted: usize) -> Result<(), Failure> {
    let path = device.path();
    if device.partitions(&context.system).len() < wanted {
        // It reads the table by itself, but for one that was built without tables of this kind.
        let _ = context.run(&context.command("partx").args(["--update", &path]));
    }
    names::settle(context);
    let known = device.partitions(&context.system).len();
    if known < wanted {
        let message = format!("{path} has its table, but the kernel knows {known} of {wanted} partitions; reboot");
        return Err(Failure::new(super::Reason::CommandFailed, message));
    }
    Ok(())
}

/// What sfdisk is to make.
fn script(label: &str, parts: &[Part], bytes: u64) -> Result<String, Failure> {
    let sum: f64 = parts.iter().map(|Part(share, _)| share).sum();
    // Tenths of a percent may not add up to 100 as binary fractions.
    if parts.is_empty() || parts.iter().any(|Part(share, _)| share.is_nan() || *share <= 0.0) || sum > 100.001 {
        return Err(config("layout: the percentages must be above 0 and at most 100 together"));
    }
    if label == "dos" && parts.len() > 4 {
        return Err(config("layout: an MBR has 4 partitions at most; write `table_type: gpt`"));
    }
    let mut script = format!("label: {label}\n");
    for (index, Part(share, kind)) in parts.iter().enumerate() {
        let takes_rest = index + 1 == parts.len() && (label == "dos" || sum > 99.999);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let units = (bytes as f64 * share / 100.0 / ALIGN as f64) as u64;
        if units == 0 {
            return Err(config(format!("layout[{index}]: {share} % of {bytes} bytes is less than 1 MiB")));
        }
        let size = if takes_rest { "+".to_owned() } else { format!("{units}MiB") };
        script.push_str(&format!("size={size}, type={}\n", type_of(label, kind.as_deref())?));
    }
    Ok(script)
}

/// The type of a partition, as sfdisk writes it down.
fn type_of(label: &str, kind: Option<&str>) -> Result<String, Failure> {
    let kind = kind.unwrap_or("83").trim().to_lowercase();
    let hex = kind.trim_start_matches("0x");
    let bad = || config(format!("layout: `{kind}` is no partition type of {label}; write one such as 83 or 82"));
    if label == "dos" {
        let number = u8::from_str_radix(hex, 16).map_err(|_| bad())?;
        return Ok(format!("{number:x}"));
    }
    // The numbers of an MBR and of sgdisk, and what they are in a GPT.
    let known = match hex {
        "83" | "8300" | "linux" | "l" => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
        "82" | "8200" | "swap" | "s" => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
        "ef" | "ef00" | "uefi" | "u" => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "8e" | "8e00" | "lvm" => "E6D6D379-F507-44C2-A23C-238F2A3DF928",
        "fd" | "fd00" | "raid" => "A19D880F-05FC-4D3B-A006-743F0F84911E",
        "7" | "07" | "0700" => "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
        uuid if uuid.len() == 36 && uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => uuid,
        _ => return Err(bad()),
    };
    Ok(known.to_uppercase())
}

/// The partition table that a disk has.
struct Table {
    label: String,
    kinds: Vec<String>,
}

impl Table {
    /// None where the disk has no table.
    fn of(context: &Context, path: &str) -> Result<Option<Self>, Failure> {
        let finished = context.run(&context.command("sfdisk").args(["--dump", path]).capture());
        let finished = finished.map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("{}; {INSTALL}", failure.message), ..failure }
        })?;
        // Exit 1 is also that of a disk that cannot be read; what follows then fails with the reason.
        Ok(if finished.success() { Some(Self::parse(&finished.text())) } else { None })
    }

    fn parse(dump: &str) -> Self {
        let mut table = Table { label: String::new(), kinds: Vec::new() };
        for line in dump.lines() {
            if let Some(label) = line.strip_prefix("label: ") {
                label.trim().clone_into(&mut table.label);
            } else if let Some((_, fields)) = line.split_once(" : ") {
                let kind = fields.split(',').find_map(|field| field.trim().strip_prefix("type="));
                table.kinds.push(kind.unwrap_or_default().trim().to_owned());
            }
        }
        table
    }

    /// Whether the partitions are those, by number and type; their sizes may have changed since.
    fn matches(&self, label: &str, parts: &[Part]) -> bool {
        let same = |(have, Part(_, kind)): (&String, &Part)| {
            kind.is_none() || type_of(label, kind.as_deref()).is_ok_and(|kind| kind.eq_ignore_ascii_case(have))
        };
        self.label == label && self.kinds.len() == parts.len() && self.kinds.iter().zip(parts).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::super::DiskSetup;
    use super::super::block::fake;
    use crate::handlers::{Handled, Outcome};
    use crate::testing;

    const DUMP: &str = "label: dos\nlabel-id: 0x1\ndevice: /dev/vdx\nunit: sectors\n\n\
        /dev/vdx1 : start=        2048, size=      100000, type=83, bootable\n\
        /dev/vdx2 : start=      102048, size=      100000, type=82\n";

    /// Runs on a disk without partitions, of which sfdisk and blkid say this; what sfdisk and wipefs were told.
    fn run(disk: &str, dump: &str, blkid: &str) -> Option<(Handled, String)> {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!("disk_setup:\n  vdx: {disk}\n");
        let mut context =
            testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/cat", "/usr/bin/mkdir"], &user_data)?;
        let system = context.system.clone();
        if !fake::disk(&system, &[]) {
            return None;
        }
        let dump = if dump.is_empty() { "exit 1".to_owned() } else { format!("echo '{dump}'; exit 0") };
        for (name, script) in [
            ("sfdisk", format!("if [ \"$1\" = --dump ]; then {dump}; fi\necho \"sfdisk $*\" >> /said; cat >> /said")),
            (
                "partx",
                "for n in 1 2 3; do mkdir -p $F/vdx$n; echo $n > $F/vdx$n/partition; echo 240:$n > $F/vdx$n/dev; done"
                    .replace("$F", "/sys/devices/vdx"),
            ),
            ("wipefs", "echo \"wipefs $*\" >> /said".to_owned()),
            ("blkid", blkid.to_owned()),
        ] {
            let script = format!("#!/usr/bin/dash\n{script}\n");
            testing::executable(&system, format!("/usr/bin/{name}"), script);
        }
        let handled = context.run_handler::<DiskSetup>();
        Some((handled, system.read_text("/said").unwrap_or_default()))
    }

    const SFDISK: &str = "sfdisk --quiet --wipe always --wipe-partitions always /dev/vdx\n";

    #[test]
    fn an_empty_disk_gets_its_partitions() {
        let linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
        let swap = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";
        for (disk, script) in [
            ("{layout: true}", "label: dos\nsize=+, type=83\n".to_owned()),
            ("{layout: [50, 50]}", "label: dos\nsize=512MiB, type=83\nsize=+, type=83\n".to_owned()),
            ("{layout: [25, [10, 0x82]]}", "label: dos\nsize=256MiB, type=83\nsize=+, type=82\n".to_owned()),
            (
                "{table_type: GPT, layout: [25, [25, 82]]}",
                format!("label: gpt\nsize=256MiB, type={linux}\nsize=256MiB, type={swap}\n"),
            ),
            ("{table_type: gpt, layout: [[100, 82]]}", format!("label: gpt\nsize=+, type={swap}\n")),
        ] {
            let Some((handled, said)) = run(disk, "", "exit 2") else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))), "{disk}: {handled:?}");
            assert_eq!(said, format!("{SFDISK}{script}"), "{disk}");
        }
    }

    #[test]
    fn partitions_that_are_there_stay_even_with_overwrite() {
        for disk in ["{layout: true}", "{layout: [50, 50], overwrite: true}", "{layout: [33, [66, 82]]}", "{}"] {
            let Some((handled, said)) = run(disk, DUMP, "echo PTTYPE=dos") else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))) && said.is_empty(), "{disk}: {handled:?} {said}");
        }
    }

    #[test]
    fn a_disk_that_holds_something_is_left_alone_unless_it_may_be_overwritten() {
        for (layout, dump, blkid) in [
            ("[50, 50]", "", "echo TYPE=ext4"),
            ("[30, 30, 30]", DUMP, "echo PTTYPE=dos"),
            ("[[50, 82], 50]", DUMP, "echo PTTYPE=dos"),
            ("true", "", "exit 8"),
            ("remove", DUMP, "echo PTTYPE=dos"),
        ] {
            let Some((handled, said)) = run(&format!("{{layout: {layout}}}"), dump, blkid) else { return };
            let failure = handled.unwrap_err();
            assert!(failure.message.contains("and nothing was changed; `overwrite: true`"), "{}", failure.message);
            assert_eq!(said, "", "{layout}");
            let overwrite = format!("{{layout: {layout}, overwrite: true}}");
            let Some((handled, said)) = run(&overwrite, dump, blkid) else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))), "{layout}: {handled:?}");
            let begin = if layout == "remove" { "wipefs --all /dev/vdx\n" } else { SFDISK };
            assert!(said.starts_with(begin), "{layout}: {said}");
        }
        let Some((handled, said)) = run("{layout: true}", "", "exit 4") else { return };
        assert!(handled.is_err() && said.is_empty(), "without an answer nothing is written");
    }

    #[test]
    fn what_makes_no_sense_is_told_and_writes_nothing() {
        for (disk, sentence) in [
            ("{layout: [60, 60]}", "at most 100 together"),
            ("{layout: [0, 50]}", "must be above 0"),
            ("{layout: []}", "must be above 0"),
            ("{layout: [.nan]}", "must be above 0"),
            ("{layout: [20, 20, 20, 20, 20]}", "an MBR has 4 partitions at most"),
            ("{layout: [0.01, 50]}", "is less than 1 MiB"),
            ("{layout: [[50, ext4]]}", "`ext4` is no partition type of dos"),
            ("{layout: [[50, \"82\\nsize=1\"]], table_type: gpt}", "is no partition type of gpt"),
            ("{layout: [[1, 2, 3]]}", "a percentage, or a list of one"),
            ("{layout: all}", "expected true, false, `remove`"),
            ("{layout: true, table_type: apm}", "`apm` is none of mbr and gpt"),
        ] {
            let Some((handled, said)) = run(disk, "", "exit 2") else { return };
            let failure = handled.unwrap_err();
            assert!(failure.message.contains(sentence), "{disk}: {}", failure.message);
            assert_eq!(said, "", "{disk}");
        }
    }
}
