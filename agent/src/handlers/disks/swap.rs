//! A swap file.

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::yaml::{self, Node, Value, scalar};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::Failure;
use super::super::edit::must;
use super::{block, config};
use crate::context::Context;
use crate::system::FileOptions;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Where a swap file of 4 KiB pages, the smallest, tells that it is one; larger pages have it later.
const PAGES: &[u64] = &[4096, 8192, 16384, 65536];

/// A swap file.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Swap {
    /// Its path; /swap.img without the key.
    filename: Option<String>,
    /// Bytes, a number with K, M, G or T, or `auto`: by memory and free space. Without the key there is none.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["string", "integer", "null"]))]
    size: Option<String>,
    /// The most that `auto` gives it.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["string", "integer", "null"]))]
    maxsize: Option<String>,
}

/// Which sizes of a document are none: key and message.
pub fn check(node: &Node) -> Vec<Diagnostic> {
    let bad = |key: &&str| {
        let node = node.get(key).filter(|node| !node.is_null())?;
        let Value::Scalar(text) = &node.value else { return None };
        let is_word = *key == "size" && (text.text == "auto" || scalar::boolean(&text.text) == Some(false));
        let path = format!("swap.{key}");
        match read(&text.text) {
            _ if is_word => None,
            Err(why) => Some(node.diagnostic(Severity::Error, &path, why)),
            Ok(_) if text.text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len() + 1 < text.text.len() => {
                let message = "other readers know units of one letter; write it so, such as 512M";
                Some(node.diagnostic(Severity::Warning, &path, message))
            }
            Ok(_) if node.kind() == "text" && text.text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let message = "text that is taken for a number; take the quotes away";
                Some(node.diagnostic(Severity::Warning, &path, message))
            }
            Ok(_) => None,
        }
    };
    ["size", "maxsize"].iter().filter_map(bad).collect()
}

/// Makes the swap file, unless it is there; its path, or none where none is asked for.
///
/// # Errors
/// When it cannot be made; a half-made one is removed.
pub fn make(context: &Context, swap: &Swap) -> Result<Option<String>, Failure> {
    let system = &context.system;
    let path = swap.filename.as_deref().unwrap_or("/swap.img").to_owned();
    let size = swap.size.as_deref().unwrap_or("0");
    if size == "0" || scalar::boolean(size) == Some(false) || path.is_empty() {
        return Ok(None);
    }
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        return Err(config(format!("filename: `{path}` is no absolute path without blanks")));
    }
    let size_of = |key: &str, text: &str| read(text).map_err(|why| config(format!("{key}: {why}")));
    let most = swap.maxsize.as_deref().map(|text| size_of("maxsize", text)).transpose()?;
    let wanted = if size == "auto" { None } else { Some(size_of("size", size)?) };
    if system.is_there(&path) {
        let head = system.head(&path, PAGES.iter().copied().max().unwrap_or(0))?;
        let is_swap = PAGES
            .iter()
            .filter_map(|page| usize::try_from(*page).ok())
            .any(|page| head.get(..page).is_some_and(|head| head.ends_with(b"SWAPSPACE2")));
        return match is_swap {
            true => Ok(Some(path)),
            false => Err(config(format!("filename: {path} is there and is no swap file; remove it or name another"))),
        };
    }
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
    system.make_dir(folder, 0o755, None)?;
    let free = system.free_bytes(folder)?;
    let bytes = match wanted {
        Some(bytes) => bytes,
        None => suggested(memory(context)?, free, most),
    };
    let mib = bytes / MIB;
    if mib == 0 {
        return Err(config(format!("size: {bytes} bytes is less than 1 MiB, so no swap file is made")));
    }
    if bytes > free {
        return Err(config(format!("size: {mib} MiB is more than the {} MiB that {folder} has free", free / MIB)));
    }
    let made = fill(context, &path, mib);
    if made.is_err() {
        let _ = system.remove(&path);
    }
    made.map(|()| Some(path))
}

fn fill(context: &Context, path: &str, mib: u64) -> Result<(), Failure> {
    // What was in memory is nobody's to read: its mode is there before its bytes.
    context.system.write(path, "", FileOptions::mode(0o600))?;
    let mounts = block::mounts(&context.system);
    let inside = |place: &str| place == "/" || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
    let kind = mounts.iter().filter(|mount| inside(&mount.place)).max_by_key(|mount| mount.place.len());
    if kind.is_some_and(|mount| mount.kind == "btrfs") {
        // The kernel swaps to no file that is copied on write.
        must(context, &context.command("chattr").args(["+C", path]), "install e2fsprogs into the image")?;
    }
    let length = format!("{mib}M");
    let fallocate = context.run(&context.command("fallocate").args(["--length", &length, path]));
    let size = |context: &Context| context.system.metadata(path).map_or(0, |found| found.len());
    // Some file systems have no fallocate, and a file with holes is no swap file.
    if !fallocate.is_ok_and(|finished| finished.success()) || size(context) != mib * MIB {
        let args = ["if=/dev/zero".to_owned(), format!("of={path}"), "bs=1M".to_owned(), format!("count={mib}")];
        must(context, &context.command("dd").args(args), "install coreutils into the image")?;
    }
    must(context, &context.command("mkswap").arg(path), "install util-linux into the image").map(drop)
}

/// Bytes of memory.
fn memory(context: &Context) -> Result<u64, Failure> {
    let text = context.system.read_text("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = total.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Failure::new(super::Reason::Io, "/proc/meminfo: it has no MemTotal"))
}

/// How much swap is sensible: as much as memory up to 4 GiB, then 4 GiB, and from 16 GiB on its root; never
/// more than the disk can bear.
fn suggested(memory: u64, free: u64, most: Option<u64>) -> u64 {
    let bearable = match most {
        Some(most) => most.min(free / 10 * 9),
        None => (free / 4).min(memory * 2),
    };
    let sensible = match memory {
        small if small < 4 * GIB => small,
        middle if middle < 16 * GIB => 4 * GIB,
        large => (large / GIB).isqrt() * GIB,
    };
    sensible.min(bearable)
}

/// The bytes that a text says: a number, or one with B, K, M, G or T. All are powers of 1024.
fn read(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size; write bytes, or a number with K, M, G or T");
    let short = text.trim().to_uppercase();
    let short = short.strip_suffix("IB").or_else(|| short.strip_suffix('B')).unwrap_or(&short);
    let power = short.chars().last().and_then(|unit| "KMGT".find(unit)).map_or(0, |index| index + 1);
    let number = short[..short.len() - usize::from(power > 0)].trim();
    let unit = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(bad);
    }
    match number.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        Ok(part) if power > 0 && part.is_finite() && part >= 0.0 => Ok((part * unit as f64) as u64),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("10485760", 10_485_760),
            ("10485760B", 10_485_760),
            ("2G", 2 * GIB),
            ("2GB", 2 * GIB),
            ("1.5M", 1_572_864),
            (" 512 MiB", 512 * MIB),
            ("1k", 1024),
        ] {
            assert_eq!(read(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "much", "1.5MT", "-1G", "1.5", "99999999T", "nanG", "G", "é"] {
            assert!(read(text).unwrap_err().contains("is no size"), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_none_are_told_before_the_boot() {
        let (config, _) = yaml::parse("x", "{size: 1.5MT, maxsize: auto}").unwrap();
        let told: Vec<String> = check(&config).iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("x:1:8: error: swap.size: ") && told[1].contains("swap.maxsize: "), "{told:?}");
        for fine in ["{size: auto, maxsize: 1G}", "{size: off}", "{size: ~}", "{}", "x"] {
            let (config, _) = yaml::parse("x", fine).unwrap();
            assert!(check(&config).is_empty(), "{fine}");
        }
    }

    #[test]
    fn auto_follows_memory_and_what_the_disk_can_bear() {
        for (memory, free, most, swap) in [
            (GIB, 100 * GIB, None, GIB),
            (8 * GIB, 100 * GIB, None, 4 * GIB),
            (64 * GIB, 100 * GIB, None, 8 * GIB),
            (8 * GIB, 8 * GIB, None, 2 * GIB),
            (8 * GIB, 100 * GIB, Some(MIB), MIB),
            (8 * GIB, 10 * MIB, Some(GIB), 9 * MIB),
        ] {
            let rough = suggested(memory, free, most) / MIB;
            assert_eq!(rough, swap / MIB, "{memory} {free} {most:?}");
        }
    }

    fn run(swap: &str, fallocate: &str) -> Option<(tempfile::TempDir, Context, Result<Option<String>, Failure>)> {
        let tree = tempfile::tempdir().unwrap();
        let tools = ["/usr/bin/dash", "/usr/bin/dd", "/usr/bin/fallocate", "/usr/sbin/mkswap"];
        let context = testing::machine(tree.path(), &tools, &format!("swap: {swap}"))?;
        context.system.write("/dev/zero", vec![0; 2 << 20], FileOptions::default()).unwrap();
        context.system.write("/proc/meminfo", "MemTotal:    1024000 kB\n", FileOptions::default()).unwrap();
        if !fallocate.is_empty() {
            let script = format!("#!/usr/bin/dash\n{fallocate}\n");
            testing::executable(&context.system, "/usr/bin/fallocate", script);
        }
        let swap: Swap = super::super::read(context.config.get("swap").unwrap()).unwrap();
        let made = make(&context, &swap);
        let made = made.and_then(|path| {
            let again = make(&context, &swap)?;
            assert_eq!(again, path, "a second run finds it");
            Ok(path)
        });
        Some((tree, context, made))
    }

    #[test]
    fn a_swap_file_is_whole_and_closed_to_others() {
        use std::os::unix::fs::MetadataExt;
        for (swap, fallocate, path, mib) in [
            ("{size: 2M}", "", "/swap.img", 2),
            ("{size: 2097152, filename: /var/swap/file}", "exit 1", "/var/swap/file", 2),
            ("{size: auto, maxsize: 1M}", "exit 0", "/swap.img", 1),
        ] {
            let Some((_tree, context, made)) = run(swap, fallocate) else { return };
            assert_eq!(made.unwrap().as_deref(), Some(path), "{swap}");
            let found = context.system.metadata(path).unwrap();
            assert_eq!((found.len() / MIB, found.mode() & 0o7777), (mib, 0o600), "{swap}");
            assert!(found.blocks() * 512 >= mib * MIB, "{swap}: no holes");
        }
    }

    #[test]
    fn what_is_not_asked_for_or_cannot_be_is_not_made() {
        for swap in ["{}", "{size: 0}", "{size: false}", "{filename: /x, size: ~}"] {
            let Some((_tree, context, made)) = run(swap, "") else { return };
            assert!(made.unwrap().is_none() && !context.system.exists("/swap.img"), "{swap}");
        }
        for (swap, sentence) in [
            ("{size: lots}", "size: `lots` is no size"),
            ("{size: 1K}", "is less than 1 MiB"),
            ("{size: 9000000T}", "is more than the"),
            ("{size: 2M, filename: swap.img}", "is no absolute path"),
            ("{size: 2M, filename: /etc/passwd}", "/etc/passwd is there and is no swap file"),
        ] {
            let Some((_tree, _, made)) = run(swap, "") else { return };
            let failure = made.unwrap_err();
            assert!(failure.message.contains(sentence), "{swap}: {}", failure.message);
        }
        let Some((_tree, context, _)) = run("{}", "") else { return };
        let failing = "#!/usr/bin/dash\nexit 3\n";
        testing::executable(&context.system, "/usr/sbin/mkswap", failing);
        let swap = Swap { size: Some("1M".to_owned()), ..Swap::default() };
        assert_eq!(make(&context, &swap).unwrap_err().message, "mkswap exited 3");
        assert!(!context.system.exists("/swap.img"), "nothing half-made stays");
    }
}
