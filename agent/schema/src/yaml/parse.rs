//! Text to tree.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::node::{Entry, Node, Place, Scalar, Source, Value};
use super::{outdented, scalar};
use crate::diagnostic::{Diagnostic, Severity};

/// Deeper nesting is refused; no honest document comes near, and the reader is recursive.
const MAX_DEPTH: usize = 128;
/// More values after expanding aliases are refused: nested aliases can multiply a page into a terabyte.
const MAX_NODES: usize = 100_000;
/// More duplicate keys are not told one by one: nobody reads them.
const MAX_WARNINGS: usize = 200;

/// Parses one document. Without a root error the tree is there, together with what is worth a warning.
///
/// `source` is what a person would call the document. An empty document is an empty mapping.
///
/// # Errors
/// The finding that makes the whole document unusable: broken syntax, a second document, a tag that
/// names no standard type, too much nesting, or a key that is not a scalar.
pub fn parse(source: &str, text: &str) -> Result<(Node, Vec<Diagnostic>), Box<Diagnostic>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Arc::new(Source { name: source.to_owned(), text: text.to_owned() });
    let mut read = attempt(&source, text);
    let mut readable = text.to_owned();
    for _ in 0..outdented::MAX {
        let Some(moved) = read.as_ref().err().and_then(|refused| outdented::moved(&readable, refused)) else { break };
        readable = moved;
        read = attempt(&source, &readable);
    }
    read
}

/// Reads a text, which stands for the source's own.
fn attempt(source: &Arc<Source>, text: &str) -> Result<(Node, Vec<Diagnostic>), Box<Diagnostic>> {
    let (source, parser) = (source.clone(), Parser::new_from_str(text));
    let mut builder = Builder { parser, source, anchors: HashMap::new(), nodes: 0, warnings: Vec::new() };
    if let Some(finding) = builder.unprintable() {
        return Err(finding);
    }
    let root = builder.document()?;
    Ok((root, builder.warnings))
}

struct Builder<'input> {
    parser: Parser<'input, saphyr_parser::StrInput<'input>>,
    source: Arc<Source>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    warnings: Vec<Diagnostic>,
}

type Fallible<T> = Result<T, Box<Diagnostic>>;

impl<'input> Builder<'input> {
    /// Control characters are an error in YAML; the parser lets them through.
    fn unprintable(&self) -> Option<Box<Diagnostic>> {
        let bad = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
        for (index, line) in self.source.text.lines().enumerate() {
            if let Some(column) = line.chars().position(bad) {
                let place = Place { source: self.source.clone(), line: index + 1, column: column + 1 };
                let message = "a control character, which YAML does not allow; write it as an escape in double quotes";
                return Some(Box::new(place.diagnostic(Severity::Error, "", message)));
            }
        }
        None
    }

    fn place(&self, marker: &Marker) -> Place {
        Place { source: self.source.clone(), line: marker.line(), column: marker.col() + 1 }
    }

    fn error<T>(&self, marker: &Marker, message: impl Into<String>) -> Fallible<T> {
        let mut place = self.place(marker);
        if let Some((index, last)) = self.source.text.lines().enumerate().last()
            && place.line > index + 1
        {
            // The document ended too soon: there is something to look at where it does.
            place.line = index + 1;
            place.column = last.trim_end().chars().count() + 1;
        }
        Err(Box::new(place.diagnostic(Severity::Error, "", message)))
    }

    fn next(&mut self) -> Fallible<(Event<'input>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let marker = *error.marker();
                self.error(&marker, format!("not valid YAML: {}{}", error.info(), advice(error.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Fallible<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return self.error(&span.start, "a second document; user-data is one YAML document a part");
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        let place = Place { source: self.source.clone(), line: 1, column: 1 };
        Ok(root.filter(|root| !root.is_null()).unwrap_or_else(|| Node::empty_map(place)))
    }

    /// Counts values against the limit, before they are made.
    fn spend(&mut self, values: usize, span: &Span) -> Fallible<()> {
        self.nodes += values;
        if self.nodes > MAX_NODES {
            return self.error(&span.start, format!("more than {MAX_NODES} values once aliases are expanded"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Fallible<Node> {
        self.spend(1, &span)?;
        if depth > MAX_DEPTH {
            return self.error(&span.start, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let place = self.place(&span.start);
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return self.error(&span.start, "an alias to an anchor that is not complete yet");
                };
                let weight = weight(node);
                self.spend(weight, &span)?;
                return Ok(self.anchors[&id].clone());
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = self.tag(tag.as_deref(), &span)?;
                let scalar = Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain, tag };
                if let Err(why) = scalar::check_tag(&scalar) {
                    return self.error(&span.start, why);
                }
                (Value::Scalar(scalar), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref(), &span)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref(), &span)?;
                (Value::Map(self.mapping(depth)?), anchor)
            }
            _ => return self.error(&span.start, "not valid YAML here"),
        };
        let node = Node { value, place };
        if anchor > 0 {
            // Anchors within anchors keep the same values again and again.
            self.spend(weight(&node), &span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Fallible<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        // Where each key stands in `entries`: a search of them all would be slow for thousands of keys.
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Value::Scalar(scalar) = &key.value else {
                return Err(Box::new(key.diagnostic(
                    Severity::Error,
                    "",
                    "a key must be text, not a list or a mapping",
                )));
            };
            if scalar.plain && scalar.text == "<<" {
                self.merge_key(value, &mut merged)?;
                continue;
            }
            let entry = Entry { key: scalar.text.clone(), place: key.place.clone(), value };
            match places.get(&entry.key).and_then(|index| entries.get_mut(*index)) {
                Some(first) => {
                    if self.warnings.len() < MAX_WARNINGS {
                        let message = format!(
                            "the key stands twice in one mapping, first in line {}; the last one counts",
                            first.place.line
                        );
                        self.warnings.push(entry.place.diagnostic(Severity::Warning, &entry.key, message));
                    }
                    *first = entry;
                }
                None => {
                    places.insert(entry.key.clone(), entries.len());
                    entries.push(entry);
                }
            }
        }
        // A key of the mapping itself wins over a merged one; of merged ones the first.
        for entry in merged {
            if !places.contains_key(&entry.key) {
                places.insert(entry.key.clone(), entries.len());
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn merge_key(&mut self, value: Node, merged: &mut Vec<Entry>) -> Fallible<()> {
        let place = value.place.clone();
        let mappings = match value.value {
            Value::Map(entries) => vec![entries],
            Value::List(items) if items.iter().all(|i| matches!(i.value, Value::Map(_))) => {
                items.iter().map(|item| item.entries().to_vec()).collect()
            }
            _ => {
                let message = "`<<` takes a mapping or a list of mappings";
                return Err(Box::new(place.diagnostic(Severity::Error, "", message)));
            }
        };
        merged.extend(mappings.into_iter().flatten());
        Ok(())
    }

    /// The standard tag's name; `!` alone says nothing; any other is refused, as a YAML 1.1 safe loader does.
    fn tag(&self, tag: Option<&Tag>, span: &Span) -> Fallible<Option<String>> {
        let Some(tag) = tag else { return Ok(None) };
        let full = format!("{}{}", tag.handle, tag.suffix);
        let standard = full.strip_prefix("tag:yaml.org,2002:").or_else(|| full.strip_prefix("!!"));
        match standard {
            Some(name) if scalar::TAGS.contains(&name) => Ok(Some(name.to_owned())),
            _ if full == "!" || full.is_empty() => Ok(None),
            // What it is may be a password without quotes, so it is not repeated.
            _ => self.error(&span.start, "unknown tag; quote the text if it begins with `!`".to_owned()),
        }
    }
}

/// What to do about an error of the parser, where one mistake is behind nearly all of them.
fn advice(error: &str) -> &'static str {
    let because = |part: &str| error.contains(part);
    if because("mapping values are not allowed") {
        "; quote text that has `: ` in it, and look at the indentation"
    } else if because("unexpected character") || because("anchor or alias") {
        "; quote text that begins with `*`, `&`, `@`, `%` or a backtick"
    } else if because("tabs disallowed") || because("tab") {
        "; indent with spaces"
    } else {
        ""
    }
}

/// Values in a tree.
fn weight(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(weight).sum(),
        Value::Map(entries) => entries.iter().map(|e| weight(&e.value)).sum(),
    }
}
