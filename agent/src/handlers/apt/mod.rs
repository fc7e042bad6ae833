//! How apt is set up: sources and their keys, settings, proxies, answers for debconf.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::Node;
use serde_json::json;

use self::config::{Config, Keys, Mirror, Source};
use super::edit::{must, put, text_or_empty};
use super::tools::{mode_of, not_text};
use super::{Failure, Frequency, Handled, Handler, Outcome, items};
use crate::context::Context;
use crate::system::{FileOptions, System};

mod config;
#[cfg(test)]
mod tests;

/// Settings of the user-data.
const CONF: &str = "/etc/apt/apt.conf.d/94cloud-init-config";
/// Proxies of the user-data.
const PROXIES: &str = "/etc/apt/apt.conf.d/90cloud-init-aptproxy";
/// Keys that a source names itself.
const OWN_KEYS: &str = "/etc/apt/cloud-init.gpg.d";
/// Keys that every source is checked with.
const ALL_KEYS: &str = "/etc/apt/trusted.gpg.d";
/// Where a fetched key is kept on the way.
const RING: &str = "/run/kiln/apt-keys";

/// Sets apt up.
pub struct Apt;

impl Handler for Apt {
    const NAME: &'static str = "apt";
    const SUMMARY: &'static str = "Sets apt up: sources, keys, proxies";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let Some(apt) = config.get("apt") else { return Vec::new() };
        let answers = apt.get("debconf_selections");
        let mut told = answers.map_or_else(Vec::new, |it| not_text(it, "apt.debconf_selections", |_| true));
        for key in ["primary", "security"] {
            let lacking = items(apt, key).iter().enumerate().filter(|(_, mirror)| mirror.get("arches").is_none());
            told.extend(lacking.map(|(index, mirror)| {
                let message = "the key `arches` is missing; write `arches: [default]` for all";
                mirror.diagnostic(Severity::Warning, &format!("apt.{key}[{index}]"), message)
            }));
        }
        told
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let Some(keys) = &config.apt else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "apt is given nothing".to_owned()));
        };
        if !is_here(&context.system) {
            return Ok(Outcome::Skipped(Reason::Unsupported, "this distribution has no apt".to_owned()));
        }
        let mut work = Work { context, changed: BTreeSet::new(), failures: Vec::new() };
        work.unsupported(keys);
        work.step("conf", |work| work.conf(keys));
        work.step("proxy", |work| work.proxies(keys));
        work.step("sources_list", |work| work.list(keys));
        for (name, source) in keys.sources.iter() {
            work.step(&format!("sources.{name}"), |work| work.source(keys, name, source));
        }
        work.step("debconf_selections", |work| work.answers(keys));
        let detail = json!({"changed": work.changed});
        match Failure::all(work.failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

struct Work<'a> {
    context: &'a Context,
    changed: BTreeSet<String>,
    failures: Vec<Failure>,
}

impl Work<'_> {
    fn step(&mut self, key: &str, work: impl FnOnce(&mut Self) -> Result<(), Failure>) {
        if let Err(failure) = work(self) {
            self.failures.push(failure.under(&format!("apt.{key}")));
        }
    }

    fn unsupported(&mut self, keys: &Keys) {
        let mirrors = || keys.primary.iter().chain(keys.security.iter());
        let no_list = keys.sources_list.is_none() && !keys.preserve_sources_list;
        for (given, what) in [
            (!keys.disable_suites.is_empty(), "disable_suites is not done; leave the suites out of sources_list"),
            (
                mirrors().any(|mirror| !mirror.search.is_empty() || mirror.search_dns),
                "no mirror is searched; name it by uri",
            ),
            (
                no_list && mirrors().next().is_some(),
                "a mirror alone changes no list; give sources_list with $MIRROR too",
            ),
        ] {
            if given {
                self.failures.push(Failure::new(Reason::Unsupported, format!("apt: {what}")));
            }
        }
    }

    fn put(&mut self, path: &str, text: &str, mode: u32) -> Result<(), Failure> {
        if put(&self.context.system, path, text, mode)? {
            self.changed.insert(path.to_owned());
        }
        Ok(())
    }

    fn conf(&mut self, keys: &Keys) -> Result<(), Failure> {
        keys.conf.as_deref().map_or(Ok(()), |text| self.put(CONF, text, mode_of(text)))
    }

    fn proxies(&mut self, keys: &Keys) -> Result<(), Failure> {
        let mut text = String::new();
        for (scheme, address) in [
            ("http", keys.proxy.as_ref().or(keys.http_proxy.as_ref())),
            ("https", keys.https_proxy.as_ref()),
            ("ftp", keys.ftp_proxy.as_ref()),
        ] {
            let Some(address) = address.map(|address| address.trim()).filter(|address| !address.is_empty()) else {
                continue;
            };
            if address.contains(['"', '\n']) {
                return Err(Failure::new(
                    Reason::Config,
                    format!("the address for {scheme} has a quote or a line's end in it"),
                ));
            }
            text.push_str(&format!("Acquire::{scheme}::Proxy \"{address}\";\n"));
        }
        // An address with a password in it is for root alone.
        let mode = if text.contains('@') { 0o600 } else { 0o644 };
        if text.is_empty() { Ok(()) } else { self.put(PROXIES, &text, mode) }
    }

    fn list(&mut self, keys: &Keys) -> Result<(), Failure> {
        let Some(template) = keys.sources_list.as_deref().filter(|_| !keys.preserve_sources_list) else {
            return Ok(());
        };
        let text = with_line_end(&self.fill(keys, template)?);
        let distro = &self.context.system.distro().id;
        let named = format!("/etc/apt/sources.list.d/{distro}.sources");
        if is_deb822(&text) {
            self.put(&named, &text, mode_of(&text))?;
            // The same sources told twice make apt complain at every run.
            if self.context.system.exists("/etc/apt/sources.list") {
                self.put("/etc/apt/sources.list", &format!("# See {named}\n"), 0o644)?;
            }
            return Ok(());
        }
        self.put("/etc/apt/sources.list", &text, mode_of(&text))?;
        if self.context.system.exists(&named) {
            self.context.system.remove(&named)?;
            self.changed.insert(named);
        }
        Ok(())
    }

    /// A template with its variables filled in.
    fn fill(&self, keys: &Keys, template: &str) -> Result<String, Failure> {
        let system = &self.context.system;
        let (mirror, security) = usual_mirrors(&system.distro().id);
        let mirror = chosen(&keys.primary).unwrap_or(mirror);
        let security = chosen(&keys.security).unwrap_or(security);
        let mut text = template.to_owned();
        if text.contains("$RELEASE") {
            text = text.replace("$RELEASE", &codename(system)?);
        }
        Ok(text.replace("$MIRROR", mirror).replace("$PRIMARY", mirror).replace("$SECURITY", security))
    }

    fn source(&mut self, keys: &Keys, name: &str, source: &Source) -> Result<(), Failure> {
        let refuse = |why: &str| Err(Failure::new(Reason::Config, why.to_owned()));
        let text = source.source.as_deref().map_or("", str::trim);
        let stem = name.trim_end_matches(".list").trim_end_matches(".sources").replace(['/', ' '], "_");
        let folder = if text.contains("$KEY_FILE") { OWN_KEYS } else { ALL_KEYS };
        let path = format!("{folder}/{stem}.gpg");
        let key = match (&source.key, &source.keyid) {
            (Some(key), _) => Some(dearmored(key)?),
            (None, Some(id)) => Some(self.fetched(id, source.keyserver.as_deref())?),
            (None, None) if text.contains("$KEY_FILE") => {
                return refuse("it names $KEY_FILE and has neither key nor keyid");
            }
            (None, None) => None,
        };
        if let Some(key) = &key
            && self.context.system.read(&path).ok().as_ref() != Some(key)
        {
            self.context.system.write(&path, key, FileOptions::mode(0o644))?;
            self.changed.insert(path.clone());
        }
        if text.is_empty() {
            return if key.is_some() { Ok(()) } else { refuse("it has neither source nor key") };
        }
        let text = with_line_end(&self.fill(keys, text)?.replace("$KEY_FILE", &path));
        if text.starts_with("ppa:") {
            let command = self.context.command("add-apt-repository").args(["--yes", "--no-update", text.trim()]);
            must(self.context, &command, "install software-properties-common into the image")?;
            return Ok(());
        }
        let extension = if is_deb822(&text) { ".sources" } else { ".list" };
        let mut file = source.filename.clone().unwrap_or_else(|| name.to_owned());
        if source.filename.as_ref().is_some_and(|file| !file.starts_with('/') && file.contains('/')) {
            return refuse("its filename is a folder's, which apt does not read; give a name alone or a whole path");
        }
        if !file.starts_with('/') {
            file = format!("/etc/apt/sources.list.d/{}", file.replace([' ', '/'], "_"));
        }
        if !file.ends_with(extension) {
            file.push_str(extension);
        }
        let old = text_or_empty(&self.context.system, &file)?;
        let keep = source.append.unwrap_or(true);
        // Behind a `#` it is not there.
        if keep && (old.starts_with(&text) || old.contains(&format!("\n{text}"))) {
            return Ok(());
        }
        let between = if keep && is_deb822(&text) && !old.is_empty() { "\n" } else { "" };
        let text = if keep { format!("{old}{between}{text}") } else { text };
        self.put(&file, &text, mode_of(&text))
    }

    /// A key from a server, by gpg in a folder of its own.
    fn fetched(&self, id: &str, server: Option<&str>) -> Result<Vec<u8>, Failure> {
        let server = server.unwrap_or("keyserver.ubuntu.com");
        let id: String = id.split_whitespace().collect();
        let plain = id.trim_start_matches("0x").bytes().all(|byte| byte.is_ascii_hexdigit()) && id.len() >= 8;
        if !plain || server.starts_with('-') {
            let message = format!("the keyid `{}` is no key's fingerprint in hexadecimal digits", id.escape_debug());
            return Err(Failure::new(Reason::Config, message));
        }
        let system = &self.context.system;
        system.make_dir(RING, 0o700, None)?;
        let gpg = || self.context.command("gpg").args(["--batch", "--no-tty", "--homedir", RING]).capture();
        let advice = "install gpg and dirmngr into the image, or give the key itself as `key`";
        let exported = must(self.context, &gpg().args(["--keyserver", server, "--recv-keys", &id]), advice)
            .and_then(|_| must(self.context, &gpg().args(["--export", &id]), advice));
        system.remove(RING)?;
        let exported = exported?;
        if exported.stdout.is_empty() {
            return Err(Failure::new(Reason::CommandFailed, format!("{server} has no key {id}; give it as `key`")));
        }
        Ok(exported.stdout)
    }

    fn answers(&mut self, keys: &Keys) -> Result<(), Failure> {
        let text: String = keys.debconf_selections.0.iter().map(|(_, answers)| with_line_end(answers)).collect();
        if text.trim().is_empty() {
            return Ok(());
        }
        let command = self.context.command("debconf-set-selections").input(text);
        // Its words repeat the answers, which may be passwords.
        let finished = self.context.run(&command)?;
        if finished.success() {
            return Ok(());
        }
        let message =
            format!("debconf-set-selections {}; check the form: package question type answer", finished.ending());
        Err(Failure::new(Reason::CommandFailed, message))
    }
}

/// Whether the machine has apt, also where the image gets it later.
pub fn is_here(system: &System) -> bool {
    system.distro().is_debian() || system.has_program("apt-get")
}

fn with_line_end(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// Whether the text is in paragraphs and not in lines.
fn is_deb822(text: &str) -> bool {
    text.lines().any(|line| line.to_ascii_lowercase().starts_with("types:"))
}

/// The mirror for this architecture.
fn chosen(mirrors: &[Mirror]) -> Option<&str> {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_for = |mirror: &&Mirror, word: &str| mirror.arches.iter().any(|arch| arch == word);
    let exact = mirrors.iter().find(|mirror| is_for(mirror, own));
    let usual = || mirrors.iter().find(|mirror| mirror.arches.is_empty() || is_for(mirror, "default"));
    exact.or_else(usual)?.uri.as_deref()
}

/// The distribution's own mirrors: of everything, and of security.
fn usual_mirrors(distro: &str) -> (&'static str, &'static str) {
    match distro {
        "ubuntu" => ("http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu"),
        _ => ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security"),
    }
}

fn codename(system: &System) -> Result<String, Failure> {
    let release = text_or_empty(system, "/etc/os-release")?;
    let line = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.map(|name| name.trim_matches('"').to_owned()).ok_or_else(|| {
        let message = "os-release has no VERSION_CODENAME for $RELEASE; write the release itself";
        Failure::new(Reason::Config, message)
    })
}

/// The bytes of an armored key.
fn dearmored(text: &str) -> Result<Vec<u8>, Failure> {
    let refuse = |why: &str| Failure::new(Reason::Config, format!("its key {why}; give the whole armored text"));
    if text.contains("PRIVATE KEY BLOCK") {
        return Err(Failure::new(
            Reason::Config,
            "its key is a private one, which nobody else may see; give the public one",
        ));
    }
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let ended = after.split_once("-----END PGP PUBLIC KEY BLOCK-----");
        let (body, next) = ended.ok_or_else(|| refuse("has no end"))?;
        // Headers have a colon, the checksum begins with an equals sign.
        let lines = body.lines().map(str::trim).filter(|line| !line.contains(':') && !line.starts_with('='));
        let bytes = STANDARD.decode(lines.collect::<String>()).map_err(|_| refuse("is damaged"))?;
        all.extend(bytes);
        rest = next;
    }
    if all.is_empty() { Err(refuse("is no armored PGP key")) } else { Ok(all) }
}
