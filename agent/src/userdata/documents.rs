//! Parts that make up the configuration: `#cloud-config`, laid over the parts before it, and patches of them.

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::yaml::{self, Node, Value};

use super::merge_how::{self, Mergers};
use super::reader::{Item, Reader};
use super::{is_nothing, part, patch};

impl Reader<'_> {
    pub(super) fn cloud_config(&mut self, source: &str, item: &Item<'_>) {
        let Some(mut node) = self.yaml(source, item).filter(|node| !node.is_null()) else { return };
        if is_nothing(&node) {
            let message = "the document has no keys, so nothing is configured; write some, or leave the part out";
            return self.found(node.diagnostic(Severity::Warning, "", message));
        }
        let kind = node.kind();
        let Value::Map(entries) = &mut node.value else {
            let message = format!("the document must be a mapping of keys, not {kind}");
            return self.found(node.diagnostic(Severity::Error, "", message));
        };
        let index = entries.extract_if(.., |entry| entry.key == "launch-index").last();
        if let Some(index) = index {
            let text = index.value.to_json();
            let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
            let item = Item { label: Some(source.to_owned()), ..Item::default() };
            if !self.is_for_this_machine(&item, &text) {
                return;
            }
        }
        let (node, mergers) = self.mergers(source, node, item.merge.as_deref());
        let so_far = std::mem::replace(&mut self.data.config, Node::empty_map(node.place.clone()));
        self.data.config = match mergers {
            _ if self.configs == 0 => node,
            Some(mergers) => mergers.merge(so_far, node),
            None => part(so_far, node),
        };
        self.configs += 1;
    }

    pub(super) fn patch(&mut self, source: &str, item: &Item<'_>) {
        let Some(changes) = self.yaml(source, item).filter(|changes| !is_nothing(changes)) else { return };
        match patch::apply(&self.data.config, &changes) {
            Ok(patched) => {
                self.data.config = patched;
                self.configs += 1;
            }
            Err(finding) => self.found(*finding),
        }
    }

    /// Takes `merge_how` out of a part: what it says, and then what the header says.
    fn mergers(&mut self, source: &str, mut node: Node, header: Option<&str>) -> (Node, Option<Mergers>) {
        let mut found: Option<Mergers> = None;
        if let Value::Map(entries) = &mut node.value {
            let named = |entry: &yaml::Entry| merge_how::KEYS.contains(&entry.key.as_str());
            for entry in entries.extract_if(.., |entry| named(entry)) {
                match Mergers::of_node(&entry.value, &entry.key) {
                    Ok((mergers, warnings)) => {
                        found = Some(found.unwrap_or_default().or(mergers));
                        self.data.diagnostics.extend(warnings);
                    }
                    Err(why) => {
                        self.data.diagnostics.push(entry.value.diagnostic(Severity::Error, &entry.key, why));
                    }
                }
            }
        }
        match header.map(Mergers::of_text) {
            Some(Ok(mergers)) => found = Some(found.unwrap_or_default().or(mergers)),
            Some(Err(why)) => {
                let message = format!("the header Merge-Type cannot be used: {why}");
                self.found(Diagnostic::error(source, message));
            }
            None => {}
        }
        (node, found)
    }
}
