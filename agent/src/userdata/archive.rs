//! `#cloud-config-archive`: a list of parts in YAML.

use kiln_schema::diagnostic::{Severity, nearest};
use kiln_schema::yaml::{self, Node, Value};

use super::kinds::{self, Declared, Kind};
use super::{Item, MAX_PARTS, Reader, is_nothing};

const KEYS: [&str; 4] = ["type", "content", "filename", "launch-index"];
/// Headers of a MIME part that an entry may carry as well. The last two say nothing that an entry does not.
const HEADERS: [&str; 4] = ["merge-type", "x-merge-type", "content-type", "content-disposition"];

/// An entry of an archive.
#[derive(Default)]
struct Entry {
    content: Vec<u8>,
    /// In lower case.
    mime_type: Option<String>,
    file_name: Option<String>,
    launch_index: Option<String>,
    merge: Option<String>,
}

impl Reader<'_> {
    /// Reads every entry as a part; one that cannot be used takes no other with it.
    pub(super) fn archive(&mut self, source: &str, item: &Item<'_>) {
        let Some(root) = self.yaml(source, item).filter(|root| !is_nothing(root)) else { return };
        let Value::List(entries) = &root.value else {
            let message = format!("an archive must be a list of parts, not {}", root.kind());
            return self.found(root.diagnostic(Severity::Error, "", message));
        };
        for (index, node) in entries.iter().enumerate() {
            if self.parts >= MAX_PARTS {
                return self.too_many();
            }
            self.parts += 1;
            let name = format!("{source} archive entry {}", index + 1);
            let path = format!("[{index}]");
            let read = self.entry(node, &path).and_then(|entry| self.archived(name, &entry, item));
            if let Err(why) = read {
                self.found(node.diagnostic(Severity::Error, &path, why));
            }
        }
    }

    fn archived(&mut self, name: String, entry: &Entry, archive: &Item<'_>) -> Result<(), String> {
        let kind = match entry.mime_type.as_deref().map(kinds::of_mime_type) {
            // An entry that says nothing of its kind is cloud-config.
            None => kinds::of_first_line(kinds::without_lead(&entry.content)).or(Some(Kind::CloudConfig)),
            Some(Declared::Sniff | Declared::Container) => None,
            Some(Declared::Script) => {
                let sniffed = kinds::of_first_line(kinds::without_lead(&entry.content));
                Some(sniffed.unwrap_or(Kind::Script(super::When::Last)))
            }
            Some(Declared::Kind(kind)) => Some(kind),
            Some(Declared::Unknown) => {
                let mime_type = entry.mime_type.as_deref().unwrap_or_default();
                return Err(format!("the type {mime_type} is not one of user-data"));
            }
        };
        self.read(Item {
            kind,
            file_name: entry.file_name.clone(),
            merge: entry.merge.clone(),
            launch_index: entry.launch_index.clone(),
            label: Some(name),
            ..Item::inside(archive, &entry.content)
        });
        Ok(())
    }

    /// An entry is a text, or a mapping.
    fn entry(&mut self, node: &Node, path: &str) -> Result<Entry, String> {
        if let Value::Scalar(_) = &node.value {
            return Ok(Entry { content: content(node)?, ..Entry::default() });
        }
        let Value::Map(fields) = &node.value else {
            return Err(format!("an entry must be a text or a mapping with `content`, not {}", node.kind()));
        };
        let mut entry = Entry::default();
        for field in fields {
            let key = field.key.to_ascii_lowercase().replace('_', "-");
            let word = || match &field.value.value {
                Value::Scalar(text) => Ok(yaml::scalar::text(text).trim().to_owned()),
                _ => Err(format!("`{key}` must be text, not {}", field.value.kind())),
            };
            match key.as_str() {
                "content" => entry.content = content(&field.value)?,
                "type" => entry.mime_type = Some(word()?.to_ascii_lowercase()),
                "filename" => entry.file_name = Some(word()?),
                "launch-index" => entry.launch_index = Some(word()?),
                "merge-type" | "x-merge-type" => entry.merge = Some(word()?),
                _ if HEADERS.contains(&key.as_str()) => {}
                _ => {
                    let path = format!("{path}.{}", field.key);
                    let mut finding = field.place.diagnostic(Severity::Warning, &path, "unknown key");
                    finding.suggestion = nearest(&key, KEYS.into_iter().chain(HEADERS));
                    self.found(finding);
                }
            }
        }
        Ok(entry)
    }
}

/// The bytes of an entry's text; nothing is an empty part.
fn content(node: &Node) -> Result<Vec<u8>, String> {
    match &node.value {
        Value::Scalar(text) if text.is_null() => Ok(Vec::new()),
        Value::Scalar(text) if text.tag.as_deref() == Some("binary") => {
            yaml::scalar::decode_binary(&text.text).ok_or_else(|| "the content is not base64".to_owned())
        }
        Value::Scalar(text) => Ok(text.text.clone().into_bytes()),
        _ => Err(format!("the content of an entry must be text (write it behind `|`), not {}", node.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, errors, read};
    use super::super::{MAX_DEPTH, When};
    use super::*;

    #[test]
    fn an_entry_is_a_text_or_a_mapping_and_keeps_its_order() {
        let data = read(
            "#cloud-config-archive\n\
             - |\n  #cloud-config\n  a: [1]\n\
             - {type: text/cloud-config, content: 'b: 1'}\n\
             - content: 'c: 1'\n\
             - {type: text/x-shellscript, filename: x/setup.sh, content: \"#!/bin/sh\\r\\necho\\r\\n\"}\n\
             - {content: \"#!/bin/sh\\n\"}\n\
             - {type: text/cloud-config, content: 'a: [2]', Merge-Type: list(append)+dict(recurse_list)}\n\
             - {type: text/cloud-boothook, content: \"#cloud-boothook\\ntrue\\n\"}\n\
             - !!binary I2Nsb3VkLWNvbmZpZwpkOiAxCg==\n\
             - ~\n",
        );
        assert_eq!(errors(&data), Vec::<String>::new());
        assert_eq!(config(&data), r#"{"a":[1,2],"b":1,"c":1,"d":1}"#);
        let scripts: Vec<_> = data.scripts.iter().map(|s| (s.name.as_str(), s.when)).collect();
        assert_eq!(scripts, [("part-005", When::Last), ("part-007", When::Hook), ("setup.sh", When::Last)]);
        assert_eq!(data.scripts[2].body, b"#!/bin/sh\necho\n");
    }

    #[test]
    fn a_bad_entry_hides_no_other_and_is_named() {
        let data = read(
            "#cloud-config-archive\n\
             - [a]\n\
             - {type: text/cloud-config, content: {a: 1}}\n\
             - {type: image/png, content: x}\n\
             - |\n  #cloud-config\n  a: [\n\
             - {content: 'b: 1', filname: x}\n\
             - 'just text'\n\
             - 'c: 1'\n",
        );
        assert_eq!(config(&data), r#"{"b":1,"c":1}"#);
        let told = errors(&data);
        for (told, expected) in told.iter().zip([
            "user-data:2:3: error: [0]: an entry must be a text or a mapping with `content`, not a list",
            "user-data:3:3: error: [1]: the content of an entry must be text (write it behind `|`), not a mapping",
            "user-data:4:3: error: [2]: the type image/png is not one of user-data",
            "user-data archive entry 4:2:5: error: not valid YAML",
            "user-data:8:21: warning: [4].filname: unknown key; did you mean `filename`?",
            "user-data archive entry 6:1:1: error: the document must be a mapping of keys, not text",
        ]) {
            assert!(told.starts_with(expected), "{told}");
        }
        assert_eq!(told.len(), 6, "{told:?}");
    }

    #[test]
    fn what_is_no_list_is_told_and_limits_hold() {
        assert!(errors(&read("#cloud-config-archive\na: 1\n"))[0].contains("must be a list of parts, not a mapping"));
        assert_eq!(errors(&read("#cloud-config-archive\n")), Vec::<String>::new());
        let many = format!("#cloud-config-archive\n{}", "- '#!/bin/sh'\n".repeat(MAX_PARTS + 5));
        let data = read(&many);
        assert_eq!(data.scripts.len(), MAX_PARTS);
        assert!(errors(&data)[0].contains("more than 1000 parts"));
        let nested = (0..MAX_DEPTH + 2).fold("#cloud-config\na: 1\n".to_owned(), |text, _| {
            format!("#cloud-config-archive\n- |\n{}", text.lines().map(|l| format!("  {l}\n")).collect::<String>())
        });
        let data = read(&nested);
        assert!(config(&data) == "{}" && errors(&data)[0].contains("deep"), "{:?}", errors(&data));
    }
}
