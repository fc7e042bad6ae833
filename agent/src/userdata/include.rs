//! `#include`: addresses of more documents, one a line.

use kiln_schema::diagnostic::Diagnostic;

use super::{Document, Item, MAX_PARTS, Reader};
use crate::net::hidden;

/// Who gets the documents that user-data includes.
pub trait Fetch {
    /// The bytes at an address, at most `limit`. `once` is for documents that are got once in the life of an
    /// instance.
    ///
    /// # Errors
    /// A sentence that names the address without what may be secret in it.
    fn fetch(&self, url: &str, once: bool, limit: usize) -> Result<Vec<u8>, String>;
}

impl Reader<'_> {
    /// Reads every document that a part names; one that cannot be had takes no other with it.
    pub(super) fn include(&mut self, source: &str, item: &Item<'_>, once: bool) {
        let Some(text) = self.text(source, item) else { return };
        for (number, url, once) in addresses(text, once) {
            if self.parts >= MAX_PARTS {
                return self.too_many();
            }
            self.parts += 1;
            let mut fail = |why: String| {
                let mut finding = Diagnostic::error(source, why);
                finding.line = Some(number);
                self.data.diagnostics.push(finding);
            };
            if !["http://", "https://", "file:///", "/"].iter().any(|begin| url.starts_with(begin)) {
                fail(format!(
                    "`{}` cannot be included: write an address that begins with http://, https:// or file:///",
                    hidden(url)
                ));
                continue;
            }
            let Some(fetcher) = self.surroundings.fetcher else { continue };
            match fetcher.fetch(url, once, self.bytes_left) {
                Ok(bytes) if bytes.len() > self.bytes_left => {
                    fail(format!("{} is too large to be included", hidden(url)))
                }
                Ok(bytes) => {
                    self.bytes_left -= bytes.len();
                    self.included(url, &bytes, item);
                }
                Err(why) => fail(format!("an included document is missing: {why}")),
            }
        }
    }

    /// An included document has a name and parts of its own.
    fn included(&mut self, url: &str, bytes: &[u8], item: &Item<'_>) {
        let document = Document { name: hidden(url), parts: 0 };
        let outer = std::mem::replace(&mut self.document, document);
        self.read(Item { in_mime: false, merge: item.merge.clone(), ..Item::inside(item, bytes) });
        self.document = outer;
    }
}

/// Line, address, and whether it is got once. A header may stand again, for the lines below it, and an address
/// behind it.
fn addresses(text: &str, mut once: bool) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let mut line = line.trim();
        for (header, is_once) in [("#include-once", true), ("#include", false)] {
            if line.get(..header.len()).is_some_and(|head| head.eq_ignore_ascii_case(header)) {
                once = is_once;
                line = line[header.len()..].trim();
                break;
            }
        }
        if !line.is_empty() && !line.starts_with('#') {
            found.push((index + 1, line, once));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::tests::{config, errors, mime, read};
    use super::super::{MAX_BYTES, Surroundings, UserData, parse};
    use super::*;

    /// Documents by their address, and what was asked for.
    #[derive(Default)]
    struct Shelf(Vec<(&'static str, String)>, RefCell<Vec<(String, bool)>>);

    impl Fetch for Shelf {
        fn fetch(&self, url: &str, once: bool, _: usize) -> Result<Vec<u8>, String> {
            self.1.borrow_mut().push((url.to_owned(), once));
            let found = self.0.iter().find(|(name, _)| *name == url);
            found.map(|(_, text)| text.clone().into_bytes()).ok_or_else(|| format!("GET {}: status 404", hidden(url)))
        }
    }

    fn with(shelf: &Shelf, text: &str) -> UserData {
        parse("user-data", text.as_bytes(), &Surroundings { fetcher: Some(shelf), ..Surroundings::default() })
    }

    #[test]
    fn included_documents_are_documents_of_any_kind_in_order() {
        let parts = mime("b", &["Content-Type: text/cloud-config\n\nb: 1", "Content-Type: text/x\n\n?"]);
        let shelf = Shelf(
            vec![
                ("http://a/1", "#cloud-config\na: 1\n".into()),
                ("http://a/2", parts),
                ("file:///3", "#include\nhttp://a/4\n".into()),
                ("http://a/4", "#!/bin/sh\n".into()),
            ],
            RefCell::default(),
        );
        let data = with(&shelf, "#include http://a/1\n# a comment\n\n  http://a/2\n#INCLUDE-ONCE\nfile:///3\n");
        assert_eq!(config(&data), r#"{"a":1,"b":1}"#);
        assert_eq!(errors(&data), ["http://a/2 part 2: error: the type text/x is not one of user-data"]);
        assert_eq!(data.scripts.len(), 1);
        let asked = shelf.1.into_inner();
        let asked: Vec<_> = asked.iter().map(|(url, once)| (url.as_str(), *once)).collect();
        assert_eq!(asked, [("http://a/1", false), ("http://a/2", false), ("file:///3", true), ("http://a/4", false)]);
    }

    #[test]
    fn one_that_fails_is_told_without_its_secrets_and_the_rest_goes_on() {
        let shelf = Shelf(vec![("http://a/1", "#cloud-config\na: 1\n".into())], RefCell::default());
        let data = with(&shelf, "#include\nhttps://me:hunter2@a/x?token=hunter2\nftp://a/?hunter2\nhttp://a/1\n");
        assert_eq!(config(&data), r#"{"a":1}"#);
        let told = errors(&data);
        assert_eq!(told[0], "user-data:2: error: an included document is missing: GET https://a/x?…: status 404");
        assert!(told[1].starts_with("user-data:3: error: `ftp://a/?…` cannot be included"), "{told:?}");
        assert!(!format!("{told:?}").contains("hunter2"));
        let mime = mime("b", &["Content-Type: text/x-include-once-url\n\nhttp://a/1"]);
        assert_eq!(config(&with(&shelf, &mime)), r#"{"a":1}"#);
        assert!(shelf.1.into_inner().last().is_some_and(|(_, once)| *once));
    }

    #[test]
    fn documents_that_include_themselves_and_large_ones_end() {
        let shelf = Shelf(
            vec![
                ("http://a/1", "#include\nhttp://a/1\nhttp://a/1\n".into()),
                ("http://a/2", " ".repeat(MAX_BYTES / 2 + 1)),
            ],
            RefCell::default(),
        );
        assert!(errors(&with(&shelf, "#include http://a/1")).iter().any(|told| told.contains("deep")));
        assert!(shelf.1.borrow().len() <= MAX_PARTS);
        let told = errors(&with(&shelf, "#include\nhttp://a/2\nhttp://a/2\n"));
        assert_eq!(told, ["user-data:3: error: http://a/2 is too large to be included"]);
    }

    #[test]
    fn without_a_fetcher_only_the_form_is_looked_at() {
        let told = errors(&read("#include\nhttp://a/1\nwww.example.org\n"));
        assert!(told.len() == 1 && told[0].starts_with("user-data:3: error: `www.example.org`"), "{told:?}");
    }
}
