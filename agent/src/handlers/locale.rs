//! The system's locale: made where it lacks, then put into the file that logins read.

use kiln_schema::diagnostic::{Diagnostic, Severity, nearest};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::{must, put, text_or_empty};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::System;

/// The locales that Debian's locale-gen is to make.
const WANTED: &str = "/etc/locale.gen";
/// The locales that it can make.
const SUPPORTED: &str = "/usr/share/i18n/SUPPORTED";
/// What to do where a locale cannot be made.
const ADVICE: &str = "install the package locales into the image, or choose C.UTF-8, which needs nothing";

/// Sets the locale.
pub struct Locale;

/// Keys of the locale.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The locale, such as `en_US.UTF-8`. `false` leaves the image's own.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["boolean", "string", "null"]))]
    locale: Option<String>,
    /// The file that gets `LANG=…`; without the key the one of the distribution.
    locale_configfile: Option<String>,
}

impl Handler for Locale {
    const NAME: &'static str = "locale";
    const SUMMARY: &'static str = "Sets the locale";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let number = config.get("locale").filter(|node| node.to_json().is_number());
        let message = "a number is no locale; write one such as en_US.UTF-8, or false";
        number.map(|node| node.diagnostic(Severity::Warning, "locale", message)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let system = &context.system;
        let locale = config.locale.as_deref().map_or("", str::trim);
        if scalar::boolean(locale) == Some(false) {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "locale is false".to_owned()));
        }
        if locale.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no locale is given".to_owned()));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
        if !locale.chars().all(plain) || scalar::boolean(locale).is_some() {
            let message = format!("locale: `{locale}` is no name of a locale; write one such as en_US.UTF-8, or false");
            return Err(Failure::new(Reason::Config, message));
        }
        let path = config.locale_configfile.clone().unwrap_or_else(|| default_file(system).to_owned());
        if !path.starts_with('/') {
            let message = format!("locale_configfile: the path `{path}` is not absolute");
            return Err(Failure::new(Reason::Config, message));
        }
        let generated = !is_available(context, locale) && make(context, locale)?;
        let changed = put(system, &path, &with_lang(&text_or_empty(system, &path)?, locale), 0o644)?;
        let detail = json!({"locale": locale, "file": path, "generated": generated, "changed": changed});
        Ok(Outcome::Ok(Some(detail)))
    }
}

/// Debian has moved the file: since 13 the old place is a link to the new one.
fn default_file(system: &System) -> &'static str {
    let (old, new) = ("/etc/default/locale", "/etc/locale.conf");
    let release = text_or_empty(system, "/etc/os-release").unwrap_or_default();
    let version = release.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let version: Option<u32> = version.and_then(|text| text.trim_matches('"').parse().ok());
    match system.distro().id.as_str() {
        _ if system.distro().is_red_hat() => new,
        _ if system.is_there(old) && !system.is_link_to(old, "../locale.conf") => old,
        _ if system.is_there(old) || system.is_there(new) => new,
        // Testing has no number.
        "debian" if version.is_none_or(|number| number >= 13) => new,
        _ => old,
    }
}

/// The file with this `LANG`, and everything else as it was.
fn with_lang(old: &str, locale: &str) -> String {
    let own = format!("LANG={locale}");
    let is_lang = |line: &str| line.trim_start().starts_with("LANG=");
    let mut lines: Vec<&str> = Vec::new();
    for line in old.lines() {
        match (is_lang(line), lines.contains(&own.as_str())) {
            (false, _) => lines.push(line),
            (true, false) => lines.push(&own),
            (true, true) => {}
        }
    }
    if !lines.contains(&own.as_str()) {
        lines.push(&own);
    }
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// A name as `locale -a` writes it: `en_US.UTF-8` is `en_US.utf8`.
fn folded(locale: &str) -> String {
    let (name, modifier) = locale.split_once('@').map_or((locale, None), |(name, rest)| (name, Some(rest)));
    let (language, charset) = name.split_once('.').map_or((name, None), |(name, rest)| (name, Some(rest)));
    let charset = charset.map(|set| set.replace('-', "").to_ascii_lowercase());
    let dotted = charset.map_or_else(|| language.to_owned(), |set| format!("{language}.{set}"));
    modifier.map_or(dotted.clone(), |word| format!("{dotted}@{word}"))
}

/// Whether the image has it already.
fn is_available(context: &Context, locale: &str) -> bool {
    let wanted = folded(locale);
    if matches!(wanted.as_str(), "C" | "C.utf8" | "POSIX") {
        return true;
    }
    if context.system.exists(format!("/usr/lib/locale/{wanted}/LC_CTYPE")) {
        return true;
    }
    let listed = context.run(&context.command("locale").arg("-a").capture());
    listed.is_ok_and(|listed| listed.success() && listed.text().lines().any(|name| folded(name) == wanted))
}

/// Has the distribution's program make it.
fn make(context: &Context, locale: &str) -> Result<bool, Failure> {
    let system = &context.system;
    if system.distro().is_red_hat() {
        let language = locale.split(['_', '.', '@']).next().unwrap_or_default();
        let message = format!("the locale {locale} is not in the image; install glibc-langpack-{language} into it");
        return Err(Failure::new(Reason::MissingProgram, message));
    }
    let line = line_of(system, locale)?;
    let old = text_or_empty(system, WANTED)?;
    let is_wanted = |text: &str| text.split_whitespace().eq(line.split_whitespace());
    if !old.lines().any(is_wanted) {
        if !["/usr/sbin/locale-gen", "/sbin/locale-gen"].iter().any(|program| system.exists(program)) {
            return Err(Failure::new(Reason::MissingProgram, format!("locale-gen is not installed; {ADVICE}")));
        }
        let mut found = false;
        let mut text = String::new();
        for old_line in old.lines() {
            let uncommented = old_line.trim_start().strip_prefix('#').filter(|rest| is_wanted(rest) && !found);
            found |= uncommented.is_some();
            text.push_str(uncommented.map_or(old_line, |_| line.as_str()));
            text.push('\n');
        }
        if !found {
            text.push_str(&line);
            text.push('\n');
        }
        put(system, WANTED, &text, 0o644)?;
    }
    must(context, &context.command("locale-gen").arg("--keep-existing"), ADVICE)?;
    if is_available(context, locale) {
        return Ok(true);
    }
    Err(Failure::new(Reason::CommandFailed, format!("locale-gen ended well and did not make {locale}; choose C.UTF-8")))
}

/// The line of locale.gen: the name and its character set.
fn line_of(system: &System, locale: &str) -> Result<String, Failure> {
    let supported = text_or_empty(system, SUPPORTED)?;
    let names: Vec<&str> = supported.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let found = supported
        .lines()
        .find(|line| line.split_whitespace().next().is_some_and(|name| folded(name) == folded(locale)));
    if let Some(line) = found {
        return Ok(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if names.is_empty() {
        let charset = locale.split_once('.').map_or("UTF-8", |(_, set)| set.split('@').next().unwrap_or(set));
        return Ok(format!("{locale} {}", charset.to_ascii_uppercase().replace("UTF8", "UTF-8")));
    }
    let advice = nearest(locale, names)
        .map_or_else(|| format!("{SUPPORTED} in the image lists them"), |name| format!("did you mean `{name}`?"));
    Err(Failure::new(Reason::Config, format!("locale: there is no locale `{locale}`; {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use crate::testing;

    fn run(user_data: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        for (path, text) in files {
            context.system.write(path, text, FileOptions::default()).unwrap();
        }
        let handled = context.run_handler::<Locale>();
        (tree, context, handled)
    }

    #[test]
    fn the_file_is_the_one_of_the_release() {
        for (release, present, file) in [
            ("ID=debian\nVERSION_ID=\"13\"", None, "/etc/locale.conf"),
            ("ID=debian\nVERSION_ID=\"12\"", None, "/etc/default/locale"),
            ("ID=debian\nVERSION_ID=\"12\"", Some("/etc/locale.conf"), "/etc/locale.conf"),
            ("ID=debian\nVERSION_ID=\"13\"", Some("/etc/default/locale"), "/etc/default/locale"),
            ("ID=debian", None, "/etc/locale.conf"),
            ("ID=ubuntu\nVERSION_ID=\"24.04\"", None, "/etc/default/locale"),
            ("ID=rocky\nID_LIKE=rhel", Some("/etc/default/locale"), "/etc/locale.conf"),
        ] {
            let mut files = vec![("/etc/os-release", release)];
            files.extend(present.map(|path| (path, "LANGUAGE=en\nLANG=C\n LANG=x\n")));
            let (_tree, context, handled) = run("locale: C.UTF-8", &files);
            handled.unwrap();
            let text = context.system.read_text(file).unwrap();
            let kept = if present == Some(file) { "LANGUAGE=en\n" } else { "" };
            assert_eq!(text, format!("{kept}LANG=C.UTF-8\n"), "{release}");
        }
    }

    #[test]
    fn false_leaves_the_image_alone_and_a_path_of_ones_own_is_kept() {
        for word in ["false", "no", "'off'"] {
            let (_tree, context, handled) = run(&format!("locale: {word}"), &[]);
            assert!(matches!(handled, Ok(Outcome::Skipped(Reason::SwitchedOff, _))), "{word}");
            assert!(!context.system.exists("/etc/locale.conf") && !context.system.exists("/etc/default/locale"));
        }
        let (_tree, context, _) = run("{locale: POSIX, locale_configfile: /etc/alternate_path/locale}", &[]);
        assert_eq!(context.system.read_text("/etc/alternate_path/locale").unwrap(), "LANG=POSIX\n");
    }

    #[test]
    fn what_cannot_be_is_told_and_changes_no_file() {
        let supported = [(SUPPORTED, "de_DE.UTF-8 UTF-8\nde_DE ISO-8859-1\n"), ("/etc/os-release", "ID=debian")];
        let red_hat = [("/etc/os-release", "ID=rocky\nID_LIKE=rhel"), ("/a", "")];
        for (user_data, files, sentence) in [
            ("locale: de_DE.UTF-8", &supported, "locale-gen is not installed; install the package locales"),
            ("locale: de_DE.UTF8x", &supported, "there is no locale `de_DE.UTF8x`; did you mean `de_DE.UTF-8`?"),
            ("locale: 'a b'", &supported, "`a b` is no name of a locale"),
            ("locale: \"C\\nLD_PRELOAD=x\"", &supported, "is no name of a locale"),
            ("locale: true", &supported, "`true` is no name of a locale"),
            ("{locale: C, locale_configfile: x}", &supported, "the path `x` is not absolute"),
            ("locale: fr_CA.UTF-8", &red_hat, "install glibc-langpack-fr"),
        ] {
            let (_tree, context, handled) = run(user_data, files);
            let failure = handled.unwrap_err();
            assert!(failure.message.contains(sentence), "{}", failure.message);
            let untouched = ["/etc/locale.conf", "/etc/default/locale", WANTED];
            assert!(!untouched.iter().any(|path| context.system.exists(path)), "{user_data}");
        }
    }

    #[test]
    fn the_distributions_program_makes_a_locale_that_lacks() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) =
            testing::machine(tree.path(), &["/usr/bin/dash", "/usr/bin/mkdir"], "locale: ga_IE.utf8")
        else {
            return;
        };
        // locale-gen is a shell script around localedef, whose tables are 15 MB: this one makes what it is asked for.
        let script = "#!/usr/bin/dash\nset -e\n[ \"$1\" = --keep-existing ]\nwhile read -r name set; do case \"$name\" in\n\
            ''|'#'*) ;; *) [ \"$set\" = UTF-8 ]; mkdir -p /usr/lib/locale/ga_IE.utf8; echo > /usr/lib/locale/ga_IE.utf8/LC_CTYPE;;\n\
            esac; done < /etc/locale.gen\n";
        testing::executable(&context.system, "/usr/sbin/locale-gen", script);
        context.system.write(SUPPORTED, "ga_IE.UTF-8 UTF-8\nga_IE ISO-8859-1\n", FileOptions::default()).unwrap();
        context
            .system
            .write(WANTED, "# a list\n# ga_IE ISO-8859-1\n# ga_IE.UTF-8 UTF-8\n", FileOptions::default())
            .unwrap();
        for generated in [true, false] {
            let Outcome::Ok(Some(detail)) = context.run_handler::<Locale>().unwrap() else { panic!("not done") };
            assert_eq!(detail["generated"], generated);
        }
        let wanted = context.system.read_text(WANTED).unwrap();
        assert_eq!(wanted, "# a list\n# ga_IE ISO-8859-1\nga_IE.UTF-8 UTF-8\n");
        assert_eq!(context.system.read_text("/etc/locale.conf").unwrap(), "LANG=ga_IE.utf8\n");
    }
}
