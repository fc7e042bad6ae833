//! From documents to what they amount to: containers are opened, parts are put where they belong.

use kiln_schema::Severity;
use kiln_schema::diagnostic::{Diagnostic, nearest};
use kiln_schema::yaml::{self, Node};

use super::kinds::{self, Kind};
use super::{MAX_BYTES, MAX_DEPTH, MAX_PARTS, Script, Surroundings, UserData, When, expand, mime};

/// A piece of user-data on its way to be a part.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub bytes: &'a [u8],
    /// What its MIME type says it is; else its first line decides.
    pub kind: Option<Kind>,
    pub file_name: Option<String>,
    /// How its MIME header wants it merged.
    pub merge: Option<String>,
    /// It is for the machine of this number alone.
    pub launch_index: Option<String>,
    /// What findings call it; else it is a part of its document, or the document itself.
    pub label: Option<String>,
    /// A template that was filled in is no template again.
    pub is_rendered: bool,
    pub in_mime: bool,
    /// Containers around it.
    pub depth: usize,
}

impl<'a> Item<'a> {
    /// A piece of a container, of which nothing is known yet.
    pub fn inside(container: &Item<'_>, bytes: &'a [u8]) -> Self {
        Item { bytes, in_mime: true, depth: container.depth + 1, ..Item::default() }
    }
}

/// The document that is read: the user-data itself, or one that it includes.
pub(super) struct Document {
    /// What a person would call it.
    pub name: String,
    /// Its MIME parts so far.
    pub parts: usize,
}

pub(super) struct Reader<'a> {
    pub surroundings: &'a Surroundings<'a>,
    pub document: Document,
    pub data: UserData,
    /// Parts of all containers so far.
    pub parts: usize,
    /// What may still be expanded.
    pub bytes_left: usize,
    /// Documents that were merged.
    pub configs: usize,
}

impl<'a> Reader<'a> {
    pub fn new(name: &str, surroundings: &'a Surroundings<'a>) -> Self {
        Reader {
            surroundings,
            document: Document { name: name.to_owned(), parts: 0 },
            data: UserData::empty(name),
            parts: 0,
            bytes_left: MAX_BYTES,
            configs: 0,
        }
    }

    pub fn read(&mut self, mut item: Item<'_>) {
        if item.depth > MAX_DEPTH {
            return self.refuse(&item, format!("containers in containers, more than {MAX_DEPTH} deep"));
        }
        if let Some(index) = item.launch_index.take()
            && !self.is_for_this_machine(&item, &index)
        {
            return;
        }
        if expand::is_gzip(item.bytes) {
            return match expand::gunzip(item.bytes, self.bytes_left) {
                Ok(bytes) => {
                    self.bytes_left -= bytes.len();
                    self.read(Item { bytes: &bytes, depth: item.depth + 1, ..item });
                }
                Err(why) => self.refuse(&item, why),
            };
        }
        let text = kinds::without_lead(item.bytes);
        if text.is_empty() {
            return;
        }
        let kind = match (item.kind, kinds::of_first_line(text)) {
            // It is a template first, whatever its MIME type says that it becomes.
            (Some(Kind::CloudConfig | Kind::Script(_)), Some(Kind::Template)) if !item.is_rendered => {
                Some(Kind::Template)
            }
            (declared, sniffed) => declared.or(sniffed),
        };
        if let Some(kind) = kind {
            return self.part(&item, kind);
        }
        if mime::is_mime(text) {
            return self.mime(text, &item);
        }
        if let Some(bytes) = expand::base64(text).filter(|_| !item.in_mime) {
            return self.read(Item { bytes: &bytes, depth: item.depth + 1, ..item });
        }
        self.unknown(&item, text);
    }

    /// Whether a part with a launch index is for this machine. A machine without one takes all parts.
    pub fn is_for_this_machine(&mut self, item: &Item<'_>, index: &str) -> bool {
        let wanted = index.trim().parse::<u32>();
        if let Ok(wanted) = wanted
            && self.surroundings.launch_index.is_none_or(|own| own == wanted)
        {
            return true;
        }
        let source = self.label(item);
        if wanted.is_err() {
            let message = "the launch index is no number, so the part is left out; write the number of the machine that \
                           it is for, from 0";
            self.found(Diagnostic::warning(source, message));
        }
        false
    }

    fn part(&mut self, item: &Item<'_>, kind: Kind) {
        let source = self.label(item);
        match kind {
            Kind::CloudConfig => self.cloud_config(&source, item),
            Kind::Archive => self.archive(&source, item),
            Kind::Patch => self.patch(&source, item),
            Kind::Template => self.template(&source, item),
            Kind::Include { once } => self.include(&source, item, once),
            Kind::Script(when) => {
                let name = self.script_name(item.file_name.as_deref());
                let body = kinds::without_lead(item.bytes);
                let body = if when == When::Hook { kinds::without_hook_header(body) } else { body };
                self.data.scripts.push(Script { name, body: kinds::with_unix_lines(body), when, of_vendor: false });
            }
            Kind::Unsupported(what, instead) => {
                let message = format!("{what} is not run by this agent; {instead}");
                self.found(Diagnostic::error(source, message));
            }
        }
    }

    /// The text of a part, without a byte order mark.
    pub fn text<'i>(&mut self, source: &str, item: &Item<'i>) -> Option<&'i str> {
        match kinds::text(item.bytes) {
            Ok(text) => Some(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err((line, why)) => {
                let mut finding = Diagnostic::error(source, why);
                finding.line = line;
                self.found(finding);
                None
            }
        }
    }

    /// The tree of a part of YAML.
    pub fn yaml(&mut self, source: &str, item: &Item<'_>) -> Option<Node> {
        match yaml::parse(source, self.text(source, item)?) {
            Ok((node, warnings)) => {
                self.data.diagnostics.extend(warnings);
                Some(node)
            }
            Err(finding) => {
                self.found(*finding);
                None
            }
        }
    }

    fn mime(&mut self, text: &[u8], item: &Item<'_>) {
        let (parts, problem) = mime::split(text);
        if let Some(problem) = problem {
            let mut finding = Diagnostic::error(self.label(item), problem.message);
            if problem.is_warning {
                finding.severity = Severity::Warning;
            }
            self.found(finding);
        }
        for part in parts {
            if self.parts >= MAX_PARTS {
                return self.too_many();
            }
            let part = match part {
                Ok(part) => part,
                Err(why) => {
                    self.refuse(&Item::inside(item, &[]), why);
                    continue;
                }
            };
            let inner = Item {
                file_name: part.file_name,
                merge: part.merge,
                launch_index: part.launch_index,
                ..Item::inside(item, &part.body)
            };
            match kinds::of_mime_type(&part.mime_type) {
                kinds::Declared::Sniff | kinds::Declared::Container => self.read(inner),
                kinds::Declared::Script => {
                    let sniffed = kinds::of_first_line(kinds::without_lead(&part.body));
                    self.read(Item { kind: Some(sniffed.unwrap_or(Kind::Script(When::Last))), ..inner });
                }
                kinds::Declared::Kind(kind) => self.read(Item { kind: Some(kind), ..inner }),
                kinds::Declared::Unknown => {
                    let message = format!("the type {} is not one of user-data", part.mime_type);
                    self.refuse(&inner, message);
                }
            }
        }
    }

    fn unknown(&mut self, item: &Item<'_>, text: &[u8]) {
        if let Err((_, why)) = kinds::text(item.bytes) {
            return self.refuse(item, why);
        }
        let source = self.label(item);
        let first = String::from_utf8_lossy(text);
        let first: String = first.lines().next().unwrap_or_default().trim_end().chars().take(40).collect();
        let message = "not a kind of user-data: the first line must be `#cloud-config` or `#!` and an interpreter";
        let mut finding = Diagnostic::error(source, message);
        finding.suggestion = nearest(&first.to_lowercase(), ["#cloud-config"]);
        self.found(finding);
    }

    fn refuse(&mut self, item: &Item<'_>, why: String) {
        let source = self.label(item);
        self.found(Diagnostic::error(source, why));
    }

    pub fn too_many(&mut self) {
        let name = self.data.config.place.source.name.clone();
        self.found(Diagnostic::error(name, format!("there are more than {MAX_PARTS} parts; the rest is not read")));
    }

    /// Keeps a finding, once.
    pub fn found(&mut self, finding: Diagnostic) {
        if !self.data.diagnostics.contains(&finding) {
            self.data.diagnostics.push(finding);
        }
    }

    /// Counts a part, and names it: `user-data`, or `user-data part 2` of a MIME document.
    fn label(&mut self, item: &Item<'_>) -> String {
        if let Some(label) = &item.label {
            return label.clone();
        }
        if !item.in_mime {
            return self.document.name.clone();
        }
        self.parts += 1;
        self.document.parts += 1;
        format!("{} part {}", self.document.name, self.document.parts)
    }

    /// The name that the part asks for, as one safe and unused file name.
    fn script_name(&self, asked: Option<&str>) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-+".contains(c) { c } else { '_' };
        let last = asked.and_then(|name| name.rsplit(['/', '\\']).next()).unwrap_or_default();
        let name: String = last.trim_start_matches('.').chars().take(100).map(safe).collect();
        let name = if name.is_empty() { format!("part-{:03}", self.parts.max(1)) } else { name };
        let taken = |name: &String| self.data.scripts.iter().any(|script| script.name == *name);
        let mut numbered = (2..).map(|number| format!("{name}-{number}"));
        if taken(&name) { numbered.find(|name| !taken(name)).unwrap_or(name) } else { name }
    }
}
