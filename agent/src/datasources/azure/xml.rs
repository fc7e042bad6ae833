//! The little XML that Azure speaks: elements and text. What it never sends is refused, not guessed at:
//! no document type, no entities of its own, no processing instructions but the first line.

use std::ops::Range;

/// Azure's documents have a depth of ten.
const MAX_DEPTH: usize = 64;

/// An element with what is in it. Attributes are left out, and prefixes of names too.
#[derive(Debug, Default)]
pub struct Element {
    /// Without its prefix.
    pub name: String,
    /// Its own text, without that of its children.
    text: String,
    children: Vec<Element>,
    /// Where its content stands in the document.
    inner: Range<usize>,
}

impl Element {
    /// The first element of this name, this one or below it.
    pub fn find(&self, name: &str) -> Option<&Element> {
        if self.name == name { Some(self) } else { self.children.iter().find_map(|child| child.find(name)) }
    }

    /// All elements of this name, this one and below it.
    pub fn all<'a>(&'a self, name: &str, found: &mut Vec<&'a Element>) {
        if self.name == name {
            found.push(self);
        }
        for child in &self.children {
            child.all(name, found);
        }
    }

    /// The text of the first element of this name; none if it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        Some(self.find(name)?.text.trim()).filter(|text| !text.is_empty())
    }

    /// Where the content of elements of this name stands.
    pub fn places(&self, name: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        self.all(name, &mut found);
        found.into_iter().map(|element| element.inner.clone()).collect()
    }
}

/// Reads a document.
///
/// # Errors
/// What is wrong and in which line. The text is not told: it may hold a password.
pub fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader { text, at: 0 };
    reader.document().map_err(|why| {
        let line = text[..reader.at].matches('\n').count() + 1;
        format!("line {line}: {why}")
    })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Element, &'static str> {
        self.skip("\u{feff}");
        if self.skip("<?xml") {
            self.until("?>")?;
        }
        let mut open: Vec<Element> = Vec::new();
        loop {
            let start = self.at;
            let text = self.text[start..].find('<').map_or(&self.text[start..], |end| &self.text[start..start + end]);
            self.at += text.len();
            match open.last_mut() {
                Some(element) => unescape(text, &mut element.text)?,
                None if text.trim().is_empty() => {}
                None => return Err("there is text outside of the elements"),
            }
            let tag = self.at;
            if self.skip("<!--") {
                self.until("-->")?;
            } else if self.skip("<![CDATA[") {
                let data = self.until("]]>")?;
                open.last_mut().ok_or("there is text outside of the elements")?.text.push_str(data);
            } else if self.skip("</") {
                let name = local(self.until(">")?.trim_end());
                let mut element = open.pop().ok_or("an element ends that never began")?;
                if element.name != name {
                    return Err("an element ends that is not the one that began last");
                }
                element.inner.end = tag;
                if let Some(root) = self.closed(element, &mut open)? {
                    return Ok(root);
                }
            } else if self.skip("<!") || self.skip("<?") {
                return Err("there is a document type or an instruction, which this reader does not take");
            } else if self.skip("<") {
                let (name, is_empty) = self.start_tag()?;
                let element = Element { name, inner: self.at..self.at, ..Element::default() };
                if open.len() >= MAX_DEPTH {
                    return Err("elements are nested too deep");
                }
                if !is_empty {
                    open.push(element);
                } else if let Some(root) = self.closed(element, &mut open)? {
                    return Ok(root);
                }
            } else {
                return Err("the document is cut off");
            }
        }
    }

    /// Puts an element where it belongs; the root is the end of the document.
    fn closed(&mut self, element: Element, open: &mut [Element]) -> Result<Option<Element>, &'static str> {
        if let Some(parent) = open.last_mut() {
            parent.children.push(element);
            return Ok(None);
        }
        let rest = self.text[self.at..].trim_matches(|c: char| c.is_whitespace() || c == '\0');
        if rest.is_empty() { Ok(Some(element)) } else { Err("there is something after the last element") }
    }

    /// The name in a tag, and whether it is the whole element; attributes are passed over.
    fn start_tag(&mut self) -> Result<(String, bool), &'static str> {
        let mut quote = None;
        for (index, c) in self.text[self.at..].char_indices() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '"' | '\'') => quote = Some(c),
                (None, '<') => return Err("a tag does not end"),
                (None, '>') => {
                    let tag = &self.text[self.at..self.at + index];
                    self.at += index + 1;
                    let is_empty = tag.ends_with('/');
                    let name = local(tag.trim_end_matches('/').split_whitespace().next().unwrap_or_default());
                    let known = |c: char| c.is_alphanumeric() || "_-.".contains(c);
                    if name.is_empty() || tag.starts_with(char::is_whitespace) || !name.chars().all(known) {
                        return Err("an element has no name");
                    }
                    return Ok((name.to_owned(), is_empty));
                }
                _ => {}
            }
        }
        Err("a tag does not end")
    }

    fn skip(&mut self, start: &str) -> bool {
        let found = self.text[self.at..].starts_with(start);
        if found {
            self.at += start.len();
        }
        found
    }

    fn until(&mut self, end: &str) -> Result<&'a str, &'static str> {
        let rest = &self.text[self.at..];
        let index = rest.find(end).ok_or("the document is cut off")?;
        self.at += index + end.len();
        Ok(&rest[..index])
    }
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn unescape(text: &str, into: &mut String) -> Result<(), &'static str> {
    let mut parts = text.split('&');
    into.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or("an `&` stands alone")?;
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let character = match name {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => match name.strip_prefix("#x") {
                Some(digits) => number(digits, 16),
                None => name.strip_prefix('#').and_then(|digits| number(digits, 10)),
            },
        };
        into.push(character.ok_or("there is an entity that nobody knows")?);
        into.push_str(rest);
    }
    Ok(())
}

/// A text as it may stand in an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_text_are_read() {
        let text = "\u{feff}<?xml version=\"1.0\"?>\n<!-- <x> --><a:r xmlns:a='u>v'>\n <b>1 &lt; &#50;&#x21;</b>\
                    <b/><c d=\"/\"><b><![CDATA[<&>]]></b></c ></a:r>\n\0";
        let root = parse(text).unwrap();
        assert_eq!((root.name.as_str(), root.text("b")), ("r", Some("1 < 2!")));
        let mut all = Vec::new();
        root.all("b", &mut all);
        let texts: Vec<_> = all.iter().map(|element| element.text.as_str()).collect();
        assert_eq!(texts, ["1 < 2!", "", "<&>"]);
        let places: Vec<_> = root.places("b").into_iter().map(|place| &text[place]).collect();
        assert_eq!(places, ["1 &lt; &#50;&#x21;", "", "<![CDATA[<&>]]>"]);
        assert_eq!(root.find("none").map(|element| &element.name), None);
    }

    #[test]
    fn what_is_no_document_is_refused_and_not_shown() {
        let deep = "<a>".repeat(100);
        for (text, why) in [
            ("", "line 1: the document is cut off"),
            ("hunter2", "line 1: there is text outside"),
            ("<a>\n<b>hunter2", "line 2: the document is cut off"),
            ("<a>\n</b></a>", "line 2: an element ends that is not the one"),
            ("</a>", "line 1: an element ends that never began"),
            ("<a/><b/>", "line 1: there is something after"),
            ("<!DOCTYPE a [<!ENTITY x \"y\">]><a/>", "line 1: there is a document type"),
            ("<a><?php ?></a>", "line 1: there is a document type or an instruction"),
            ("<a>&x;</a>", "line 1: there is an entity"),
            ("<a>&#xD800;</a>", "line 1: there is an entity"),
            ("<a>&</a>", "line 1: an `&` stands alone"),
            ("<a b='>", "line 1: a tag does not end"),
            ("<a <b></b></a>", "line 1: a tag does not end"),
            ("< a></a>", "line 1: an element has no name"),
            ("<>", "line 1: an element has no name"),
            ("<a><![CDATA[", "line 1: the document is cut off"),
            (&deep, "line 1: elements are nested too deep"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.starts_with(why) && !told.contains("hunter2"), "{text}: {told}");
        }
    }

    #[test]
    fn what_is_escaped_is_read_again() {
        let text = "a & b < c > \"d\"";
        assert_eq!(parse(&format!("<a>{}</a>", escape(text))).unwrap().text("a"), Some(text));
    }
}
